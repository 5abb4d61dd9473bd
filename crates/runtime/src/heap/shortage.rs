//! What happens where memory cannot be had: the program ends with exit code 1 and one sentence.
//!
//! Rust's own answer to a failed allocation is to abort, a signal and a trace. Most code, that of
//! libraries too, has no other way to go on, so the allocator itself ends the program. Code that can
//! go on says so by [`fallible`].
//!
//! On Linux the allocator also refuses what would only be granted on paper: a machine hands out more
//! memory than it has, and ends the program by a signal once it is used.

use std::cell::Cell;
use std::fmt::{self, Write as _};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use distorch_allocation::ByteSize;

use crate::devices::{LimitKind, host_limits};

/// Allocations below this are never refused while the system grants them.
const LARGE: usize = 1 << 20;

/// Memory that is left to small allocations and to the rest of the machine.
const RESERVE: u64 = 32 << 20;

/// The machine is asked again once so many more bytes are taken, or a quarter of what was free.
const INTERVAL: u64 = 16 << 20;

/// So many bytes may be taken before the machine is asked for what it has left.
static ADMITTED: AtomicI64 = AtomicI64::new(0);

/// Whether a thread is asking the machine, which takes memory itself.
static ASKING: AtomicBool = AtomicBool::new(false);

/// What the program is doing, for the sentence that ends it.
static DOING: Mutex<Work> = Mutex::new(Work::NOTHING);

thread_local! {
    /// Whether this thread goes on where an allocation fails.
    static FALLIBLE: Cell<bool> = const { Cell::new(false) };
    /// The last of what this thread does, by its number.
    static OWN: Cell<u64> = const { Cell::new(0) };
}

/// Runs code that handles failed allocations itself, such as `Vec::try_reserve`. Nothing else in it
/// may allocate much.
///
/// ```
/// #[global_allocator]
/// static HEAP: distorch_runtime::heap::CountingAllocator = distorch_runtime::heap::CountingAllocator;
///
/// let mut bytes = Vec::<u8>::new();
/// let reserved = distorch_runtime::heap::fallible(|| bytes.try_reserve_exact(1 << 60));
/// assert!(reserved.is_err());
/// ```
pub fn fallible<T>(run: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            FALLIBLE.set(self.0);
        }
    }
    let _restore = Restore(FALLIBLE.replace(true));
    run()
}

/// Says what this thread is doing until this is dropped: `node 3 (KSampler)`. A failed allocation
/// names it.
pub fn doing(what: &str) -> Doing {
    let mut text = Text::EMPTY;
    // A text that is too long is cut.
    let _ = text.write_str(what);
    let outer = OWN.get();
    let number = lock().begin(outer, text);
    if number > 0 {
        OWN.set(number);
    }
    Doing { number, outer, thread: PhantomData }
}

/// What a thread does; it does what it did before [`doing`] once this is dropped, which is on the same thread.
#[derive(Debug)]
#[must_use]
pub struct Doing {
    number: u64,
    outer: u64,
    thread: PhantomData<*const ()>,
}

impl Drop for Doing {
    fn drop(&mut self) {
        if self.number > 0 {
            lock().end(self.number);
            OWN.set(self.outer);
        }
    }
}

fn lock() -> MutexGuard<'static, Work> {
    DOING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What threads are doing. As many texts as there is room for: those of some more are not known.
struct Work {
    texts: [Option<Entry>; Self::ROOM],
    last: u64,
}

#[derive(Clone, Copy)]
struct Entry {
    number: u64,
    /// What the same thread did before, and still does; 0 for nothing.
    outer: u64,
    text: Text,
}

impl Work {
    const ROOM: usize = 16;
    const NOTHING: Self = Self { texts: [None; Self::ROOM], last: 0 };

    /// Adds a text, and returns its number; 0 where there is no room.
    fn begin(&mut self, outer: u64, text: Text) -> u64 {
        let Some(place) = self.texts.iter_mut().find(|entry| entry.is_none()) else { return 0 };
        self.last += 1;
        *place = Some(Entry { number: self.last, outer, text });
        self.last
    }

    fn end(&mut self, number: u64) {
        for place in &mut self.texts {
            if place.is_some_and(|entry| entry.number == number) {
                *place = None;
            }
        }
    }

    /// What a thread does, by the number of its last text; where it is none of those that said so, it works for one of
    /// them: what was begun last by any, and all that was begun beside it.
    fn said(&self, own: u64) -> Text {
        let entries = || self.texts.iter().flatten();
        if let Some(entry) = entries().find(|entry| entry.number == own) {
            return entry.text;
        }
        // The first is the program's own, which waits for the others.
        let first = entries().map(|entry| entry.number).min();
        let alone = entries().count() == 1;
        let is_last = |entry: &&Entry| !entries().any(|other| other.outer == entry.number);
        let mut said = Text::EMPTY;
        for entry in entries().filter(is_last).filter(|entry| alone || Some(entry.number) != first)
        {
            let or = if said.as_str().is_empty() { "" } else { " or " };
            let _ = write!(said, "{or}{}", entry.text.as_str());
        }
        said
    }
}

/// Whether `more` bytes may be taken where `taken` are. Asks the machine only now and then.
pub(super) fn admits(taken: i64, more: usize) -> bool {
    let after = taken.saturating_add(i64::try_from(more).unwrap_or(i64::MAX));
    after <= ADMITTED.load(Ordering::Relaxed) || admits_now(taken, more)
}

#[cold]
fn admits_now(taken: i64, more: usize) -> bool {
    // Elsewhere what a machine has left is not known well enough to refuse anything by it.
    if !cfg!(target_os = "linux") {
        ADMITTED.store(i64::MAX, Ordering::Relaxed);
        return true;
    }
    // Who asks takes memory, which is admitted: otherwise it would ask again.
    if ASKING.swap(true, Ordering::Acquire) {
        return true;
    }
    let need = more as u64;
    let mut room = room();
    if more >= LARGE && need > room {
        // What was freed lies in the allocator, and is not counted as free by the system.
        super::give_back();
        room = self::room();
    }
    let admitted = more < LARGE || need <= room;
    if admitted {
        let step = (room.saturating_sub(need) / 4).max(INTERVAL).saturating_add(need);
        let step = i64::try_from(step).unwrap_or(i64::MAX);
        ADMITTED.store(taken.saturating_add(step), Ordering::Relaxed);
    }
    ASKING.store(false, Ordering::Release);
    admitted
}

/// Bytes that can be taken before the system ends a program for want of memory. Limits of this
/// process are not counted: an allocation beyond these fails.
fn room() -> u64 {
    let limits = host_limits();
    let ends = limits
        .iter()
        .filter(|limit| matches!(limit.kind, LimitKind::Machine | LimitKind::ControlGroup));
    ends.map(|limit| limit.room()).min().unwrap_or(u64::MAX).saturating_sub(RESERVE)
}

/// An allocation failed. Returns where this thread goes on by itself.
#[cold]
pub(super) fn failed(bytes: usize) {
    if FALLIBLE.get() {
        return;
    }
    // What describes the limits takes a little memory, and may fail in turn.
    FALLIBLE.set(true);
    let asked = !ASKING.swap(true, Ordering::Acquire);
    let mut message = Text::EMPTY;
    let doing = match DOING.try_lock() {
        Ok(work) => work.said(OWN.get()),
        Err(TryLockError::Poisoned(work)) => work.into_inner().said(OWN.get()),
        Err(TryLockError::WouldBlock) => Text::EMPTY,
    };
    let _ = message.write_str("error: out of memory");
    if !doing.as_str().is_empty() {
        let _ = write!(message, " in {}", doing.as_str());
    }
    let _ = write!(message, ": {} more were needed", ByteSize(bytes as u64));
    // Reading the limits allocates through paths that abort; only where it is sure to be granted.
    let tightest = if asked && bytes >= LARGE { tightest() } else { None };
    let _ = match tightest {
        Some((kind, free)) => {
            write!(message, ", and {kind} has {} left; {}", ByteSize(free), kind.remedy())
        }
        None => write!(message, "; make a smaller picture or batch, or raise the memory limit"),
    };
    let _ = message.write_str("\n");
    end(&message);
}

/// What leaves least, and how much.
fn tightest() -> Option<(LimitKind, u64)> {
    let limits = host_limits().into_iter();
    limits.map(|limit| (limit.kind, limit.room())).min_by_key(|&(_, room)| room)
}

/// Prints a message and ends the program, by calls that take no memory and no lock.
fn end(message: &Text) -> ! {
    #[cfg(unix)]
    // SAFETY: the bytes are those of a text that lives as long as the call; ending has no conditions.
    unsafe {
        let bytes = message.as_str().as_bytes();
        libc::write(2, bytes.as_ptr().cast(), bytes.len());
        libc::_exit(1)
    }
    #[cfg(not(unix))]
    {
        use std::io::Write as _;
        let _ = std::io::stderr().write_all(message.as_str().as_bytes());
        std::process::exit(1)
    }
}

/// Text that takes no memory of its own; what is too long is cut.
#[derive(Clone, Copy)]
struct Text {
    bytes: [u8; Self::ROOM],
    length: usize,
}

impl Text {
    const ROOM: usize = 512;
    const EMPTY: Self = Self { bytes: [0; Self::ROOM], length: 0 };

    fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..self.length).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let left = Self::ROOM - self.length;
        let cut = text.floor_char_boundary(text.len().min(left));
        let part = text.as_bytes().get(..cut).unwrap_or_default();
        if let Some(place) = self.bytes.get_mut(self.length..self.length + cut) {
            place.copy_from_slice(part);
            self.length += cut;
        }
        if cut < text.len() { Err(fmt::Error) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_is_said_until_it_is_done() {
        let said = || lock().said(OWN.get());
        let outer = doing("loading");
        let inner = doing("node 3 (KSampler)");
        assert_eq!(said().as_str(), "node 3 (KSampler)");
        drop(inner);
        assert_eq!(said().as_str(), "loading");
        drop(outer);
        let long = "ü".repeat(Text::ROOM);
        let _long = doing(&long);
        assert!(!said().as_str().is_empty() && long.starts_with(said().as_str()));
    }

    #[test]
    fn two_runs_are_told_apart_by_their_threads() {
        let text = |text: &str| {
            let mut made = Text::EMPTY;
            made.write_str(text).unwrap();
            made
        };
        let mut work = Work::NOTHING;
        let serves = work.begin(0, text("`distorch serve`"));
        assert_eq!(work.said(0).as_str(), "`distorch serve`");
        let [first, second] = ["node 3", "node 5"].map(|node| work.begin(0, text(node)));
        assert_eq!(work.said(second).as_str(), "node 5");
        assert_eq!(work.said(first).as_str(), "node 3");
        assert_eq!(work.said(0).as_str(), "node 3 or node 5");
        // The one that began first ends first.
        work.end(first);
        assert_eq!(work.said(0).as_str(), "node 5");
        work.end(second);
        work.end(serves);
        assert_eq!(work.said(0).as_str(), "");
        let inner = work.begin(serves, text("inner"));
        assert_eq!(work.said(0).as_str(), "inner");
        assert!((1..Work::ROOM).all(|_| work.begin(inner, Text::EMPTY) > 0));
        assert_eq!(work.begin(0, Text::EMPTY), 0);
    }

    #[test]
    fn what_no_machine_has_is_refused() {
        if cfg!(target_os = "linux") {
            assert!(!admits_now(0, 1 << 60));
            assert!(admits_now(0, LARGE - 1), "small allocations fail by themselves");
        }
    }
}
