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
static DOING: Mutex<Text> = Mutex::new(Text::EMPTY);

thread_local! {
    /// Whether this thread goes on where an allocation fails.
    static FALLIBLE: Cell<bool> = const { Cell::new(false) };
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

/// Says what the program is doing until this is dropped: `node 3 (KSampler)`. A failed allocation
/// names it.
pub fn doing(what: &str) -> Doing {
    let mut text = Text::EMPTY;
    // A text that is too long is cut.
    let _ = text.write_str(what);
    Doing { before: std::mem::replace(&mut *lock(), text) }
}

/// What the program did before [`doing`]; it does so again once this is dropped.
#[derive(Debug)]
#[must_use]
pub struct Doing {
    before: Text,
}

impl Drop for Doing {
    fn drop(&mut self) {
        *lock() = self.before;
    }
}

fn lock() -> MutexGuard<'static, Text> {
    DOING.lock().unwrap_or_else(PoisonError::into_inner)
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
        Ok(text) => *text,
        Err(TryLockError::Poisoned(text)) => *text.into_inner(),
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
        let outer = doing("loading");
        let inner = doing("node 3 (KSampler)");
        assert_eq!(lock().as_str(), "node 3 (KSampler)");
        drop(inner);
        assert_eq!(lock().as_str(), "loading");
        drop(outer);
        let long = "ü".repeat(Text::ROOM);
        let _long = doing(&long);
        let said = *lock();
        assert!(!said.as_str().is_empty() && long.starts_with(said.as_str()));
    }

    #[test]
    fn what_no_machine_has_is_refused() {
        if cfg!(target_os = "linux") {
            assert!(!admits_now(0, 1 << 60));
            assert!(admits_now(0, LARGE - 1), "small allocations fail by themselves");
        }
    }
}
