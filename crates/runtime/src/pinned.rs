//! Page-locked memory: memory of the host that a device's copy engine reads by itself, while the host goes on.
//!
//! Other memory the driver copies to such memory of its own first, while whoever asked waits. A layer at home on
//! `cpu` whose bytes are [kept](keep) here crosses the link straight from its home at every upload.
//!
//! The bytes live as long as anyone refers to them. An upload hands a reference on with the copy it orders, and
//! whoever carries the copy out lets go of it when it is done: so a home may be given up while a
//! copy from it is under way, and its memory goes back to the driver after the copy.

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use bytes::Bytes;

/// Every parameter of a layer starts at such an address: a line of the processor's cache, and more than any
/// dtype asks for.
const ALIGNMENT: usize = 64;

/// The part of a driver that page-locked memory needs.
pub trait Driver: fmt::Debug + Send + Sync + 'static {
    /// So many bytes of page-locked memory, which every context of the process may copy from.
    ///
    /// # Errors
    /// Why there are none.
    fn host_alloc(&self, bytes: usize) -> Result<NonNull<u8>, String>;

    /// Gives the memory back.
    ///
    /// # Safety
    /// It came from [`host_alloc`](Self::host_alloc) of the same driver, was not given back before, and nobody
    /// reads or writes it any more, a copy under way included.
    unsafe fn host_free(&self, at: NonNull<u8>);
}

/// Copies of these, one behind the other in one piece of page-locked memory.
///
/// # Errors
/// When the driver gives none.
pub fn keep(driver: &Arc<dyn Driver>, parts: &[&[u8]]) -> Result<Vec<Bytes>, String> {
    let (mut total, mut starts) = (0_usize, Vec::with_capacity(parts.len()));
    for part in parts {
        starts.push(total);
        let end =
            total.checked_add(part.len()).and_then(|end| end.checked_next_multiple_of(ALIGNMENT));
        total = end.ok_or("it is too large")?;
    }
    if total == 0 {
        return Ok(parts.iter().map(|_| Bytes::new()).collect());
    }
    let at = driver.host_alloc(total)?;
    let locked = Locked { driver: Arc::clone(driver), at, length: total };
    // SAFETY: `total` bytes are there, new and known to nobody else, and each part ends within them.
    unsafe {
        locked.at.as_ptr().write_bytes(0, total);
        for (part, &start) in parts.iter().zip(&starts) {
            std::ptr::copy_nonoverlapping(part.as_ptr(), locked.at.as_ptr().add(start), part.len());
        }
    }
    let all = Bytes::from_owner(locked);
    Ok(parts.iter().zip(starts).map(|(part, start)| all.slice(start..start + part.len())).collect())
}

/// Page-locked memory with its owner.
struct Locked {
    driver: Arc<dyn Driver>,
    at: NonNull<u8>,
    length: usize,
}

// SAFETY: it owns the memory, to which nobody writes once it is filled.
unsafe impl Send for Locked {}
// SAFETY: as above.
unsafe impl Sync for Locked {}

impl AsRef<[u8]> for Locked {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: so many bytes are there, all written.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.length) }
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // SAFETY: it is this driver's, is given back once, and the last reference to it is gone.
        unsafe { self.driver.host_free(self.at) };
    }
}

impl fmt::Debug for Locked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Locked").field("length", &self.length).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod double {
    //! A driver of page-locked memory for tests: counts, refuses, and spoils what was given back.

    use std::alloc::{Layout, alloc_zeroed, dealloc};
    use std::collections::HashMap;
    use std::sync::Mutex;

    use super::*;

    #[derive(Debug, Default)]
    pub(crate) struct Memory {
        held: Mutex<HashMap<usize, Layout>>,
        /// The most bytes that it gives.
        most: Option<usize>,
    }

    impl Memory {
        /// One that gives so many bytes.
        pub(crate) fn of(most: usize) -> Self {
            Self { most: Some(most), ..Self::default() }
        }

        pub(crate) fn held(&self) -> usize {
            self.held.lock().unwrap().values().map(Layout::size).sum()
        }

        /// Whether these bytes lie in memory that is held.
        pub(crate) fn has(&self, bytes: &[u8]) -> bool {
            let (start, end) = (bytes.as_ptr() as usize, bytes.as_ptr() as usize + bytes.len());
            let held = self.held.lock().unwrap();
            held.iter().any(|(&at, layout)| at <= start && end <= at + layout.size())
        }
    }

    impl Driver for Memory {
        fn host_alloc(&self, bytes: usize) -> Result<NonNull<u8>, String> {
            if self.most.is_some_and(|most| self.held() + bytes > most) {
                return Err("out of page-locked memory".to_owned());
            }
            let layout = Layout::from_size_align(bytes, 4096).unwrap();
            // SAFETY: `keep` asks for no empty memory.
            let at = NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap();
            assert!(self.held.lock().unwrap().insert(at.as_ptr() as usize, layout).is_none());
            Ok(at)
        }

        unsafe fn host_free(&self, at: NonNull<u8>) {
            let layout = self.held.lock().unwrap().remove(&(at.as_ptr() as usize));
            let layout = layout.expect("given back once, to whom it came from");
            // SAFETY: it was made above with this layout, and is ours again.
            unsafe {
                at.as_ptr().write_bytes(0xDB, layout.size());
                dealloc(at.as_ptr(), layout);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::double::Memory;
    use super::*;

    #[test]
    fn parts_are_kept_whole_and_given_back_with_the_last_of_them() {
        let memory = Arc::new(Memory::default());
        let driver = Arc::clone(&memory) as Arc<dyn Driver>;
        let parts: [&[u8]; 4] = [&[1; 100], &[], &[2; 64], &[3; 1]];
        let kept = keep(&driver, &parts).unwrap();
        assert_eq!(memory.held(), 128 + 64 + 64);
        for (kept, part) in kept.iter().zip(parts) {
            assert_eq!(&kept[..], part);
            assert!(memory.has(kept) || part.is_empty());
            assert!(part.is_empty() || (kept.as_ptr() as usize).is_multiple_of(ALIGNMENT));
        }
        let last = kept[3].clone();
        drop(kept);
        assert_eq!((&last[..], memory.held()), (&[3_u8][..], 256), "someone still has a part");
        drop(last);
        assert_eq!(memory.held(), 0);
        assert!(keep(&driver, &[]).unwrap().is_empty() && memory.held() == 0);
    }

    #[test]
    fn what_the_driver_does_not_give_is_an_error() {
        let driver = Arc::new(Memory::of(100)) as Arc<dyn Driver>;
        assert_eq!(keep(&driver, &[&[0; 101]]).unwrap_err(), "out of page-locked memory");
        assert!(keep(&driver, &[&[0; 10]]).is_ok());
    }
}
