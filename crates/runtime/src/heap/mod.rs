//! The memory of this process, counted as it is taken: what a device of the host's memory really
//! holds.
//!
//! A program that wants the count installs [`CountingAllocator`] as its allocator. Pools of host memory tell
//! what they hold; what is taken beyond that, while a model runs, are its activations: a [`PeakMeter`]
//! knows the most of it. Without the allocator nothing is known and estimates stand in. What happens
//! where memory cannot be had: [`shortage`].

pub mod shortage;

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

pub use shortage::{Doing, doing, fallible};

/// The system's allocator, with a count of what is taken. Where it has no more, the program ends with
/// exit code 1 and a sentence ([`shortage`]).
///
/// ```
/// #[global_allocator]
/// static HEAP: distorch_runtime::heap::CountingAllocator = distorch_runtime::heap::CountingAllocator;
///
/// let before = distorch_runtime::heap::taken().unwrap();
/// let bytes = vec![1_u8; 1 << 20];
/// assert!(distorch_runtime::heap::taken().unwrap() >= before + (1 << 20));
/// # drop(bytes);
/// ```
#[derive(Debug)]
pub struct CountingAllocator;

/// Bytes that are taken. An allocator may not fail to count, nor be slow: these are plain numbers.
static TAKEN: AtomicI64 = AtomicI64::new(0);
/// Bytes that pools account for.
static ACCOUNTED: AtomicI64 = AtomicI64::new(0);
/// The most that was taken beyond these since it was last looked at.
static PEAK: AtomicI64 = AtomicI64::new(i64::MIN);

fn count(bytes: i64) {
    let taken = TAKEN.fetch_add(bytes, Ordering::Relaxed) + bytes;
    if bytes > 0 {
        let beyond = taken - ACCOUNTED.load(Ordering::Relaxed);
        // Most calls are far below the peak and need not write it.
        if beyond > PEAK.load(Ordering::Relaxed) {
            PEAK.fetch_max(beyond, Ordering::Relaxed);
        }
    }
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Takes memory by `take`, once more after freed memory was given back, or ends the program.
fn take(more: usize, take: impl Fn() -> *mut u8) -> *mut u8 {
    if shortage::admits(TAKEN.load(Ordering::Relaxed), more) {
        let mut place = take();
        if place.is_null() {
            give_back();
            place = take();
        }
        if !place.is_null() {
            return place;
        }
    }
    shortage::failed(more);
    ptr::null_mut()
}

// SAFETY: every call is the system allocator's with the same arguments; counting takes no memory, and
// ending the program is no unwinding.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those that `System` asks for.
        let place = take(layout.size(), || unsafe { System.alloc(layout) });
        if !place.is_null() {
            count(signed(layout.size()));
        }
        place
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as in `alloc`.
        let place = take(layout.size(), || unsafe { System.alloc_zeroed(layout) });
        if !place.is_null() {
            count(signed(layout.size()));
        }
        place
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: as in `alloc`.
        unsafe { System.dealloc(place, layout) };
        count(-signed(layout.size()));
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let more = size.saturating_sub(layout.size());
        // SAFETY: as in `alloc`; a call that fails leaves `place` as it is.
        let moved = take(more, || unsafe { System.realloc(place, layout, size) });
        if !moved.is_null() {
            count(signed(size) - signed(layout.size()));
        }
        moved
    }
}

/// Lets the allocator keep what is freed for whoever asks next. Otherwise the large results of every
/// layer are new pages of the system's, each cleared and mapped, and given back right after. Called
/// before there are other threads; does something with glibc only.
pub fn keep_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// The most that every version takes for the size from which on memory is mapped.
        const MAPPED_FROM: libc::c_int = 32 << 20;
        // SAFETY: these set numbers of the allocator.
        unsafe {
            libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
            libc::mallopt(libc::M_ARENA_MAX, 1);
            if libc::mallopt(libc::M_MMAP_THRESHOLD, libc::c_int::MAX) == 0 {
                libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM);
            }
        }
    }
}

/// Gives freed memory that [`keep_freed`] kept back to the system.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it looks at what is free, under the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Bytes that this process has taken from the allocator; `None` unless [`CountingAllocator`] is installed.
pub fn taken() -> Option<u64> {
    // No program runs without having taken something.
    u64::try_from(TAKEN.load(Ordering::Relaxed)).ok().filter(|&taken| taken > 0)
}

/// A pool holds so many bytes more of this process's memory, or less.
pub(crate) fn account(bytes: i64) {
    ACCOUNTED.fetch_add(bytes, Ordering::Relaxed);
}

/// Runs that compute now, and how often one began or ended beside another.
static RUNS: AtomicU64 = AtomicU64::new(0);
static OVERLAPS: AtomicU64 = AtomicU64::new(0);

/// A run of this process computes until this is dropped. While there are several, nobody knows which of them takes what.
#[derive(Debug)]
#[must_use]
pub struct Computing(());

/// A run computes from now on.
pub fn computing() -> Computing {
    if RUNS.fetch_add(1, Ordering::SeqCst) > 0 {
        OVERLAPS.fetch_add(1, Ordering::SeqCst);
    }
    Computing(())
}

impl Drop for Computing {
    fn drop(&mut self) {
        if RUNS.fetch_sub(1, Ordering::SeqCst) > 1 {
            OVERLAPS.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// The meters that are on, and the lock under which the peak is read.
static METERS: Mutex<Vec<Weak<PeakMeter>>> = Mutex::new(Vec::new());

/// Knows the most that was taken beyond what pools account for, since it began.
#[derive(Debug)]
pub struct PeakMeter {
    base: i64,
    peak: AtomicI64,
    /// The overlaps of runs before it began.
    overlaps: u64,
}

impl PeakMeter {
    /// Measures from now on; `None` unless [`CountingAllocator`] is installed.
    pub fn begin() -> Option<Arc<Self>> {
        taken()?;
        let overlaps = OVERLAPS.load(Ordering::SeqCst);
        let mut meters = meters();
        look(&mut meters);
        let base = beyond();
        let meter = Arc::new(Self { base, peak: AtomicI64::new(base), overlaps });
        meters.push(Arc::downgrade(&meter));
        Some(meter)
    }

    /// Whether no two runs computed side by side at any time since it began: else what it knows is of both.
    pub fn is_of_one_run(&self) -> bool {
        RUNS.load(Ordering::SeqCst) < 2 && OVERLAPS.load(Ordering::SeqCst) == self.overlaps
    }

    /// The most bytes since it began.
    pub fn most(&self) -> u64 {
        look(&mut meters());
        u64::try_from(self.peak.load(Ordering::Relaxed) - self.base).unwrap_or(0)
    }

    /// The most bytes since anybody last looked.
    pub fn peak_since_last(&self) -> u64 {
        let peak = look(&mut meters());
        u64::try_from(peak - self.base).unwrap_or(0)
    }
}

fn meters() -> MutexGuard<'static, Vec<Weak<PeakMeter>>> {
    METERS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn beyond() -> i64 {
    TAKEN.load(Ordering::Relaxed) - ACCOUNTED.load(Ordering::Relaxed)
}

/// Notes the peak in all meters, starts it from now again, and returns it.
fn look(meters: &mut Vec<Weak<PeakMeter>>) -> i64 {
    let peak = PEAK.swap(beyond(), Ordering::Relaxed).max(beyond());
    meters.retain(|meter| {
        let Some(meter) = meter.upgrade() else { return false };
        meter.peak.fetch_max(peak, Ordering::Relaxed);
        true
    });
    peak
}
