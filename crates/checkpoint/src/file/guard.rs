//! Looks at pages of a mapped file that are no longer there.
//!
//! The system answers such a look with `SIGBUS`, which ends the process. On Linux a handler puts an
//! empty page in the place of one that is gone from a guarded map, and remembers it: the look
//! goes on, and whoever asks [`Guard::lost`] after it learns that what was seen is not the file's.
//! Other faults go to the handler that was there before. Elsewhere nothing is guarded.

pub(super) use system::Guard;
#[cfg(target_os = "linux")]
pub(super) use system::page_size;

#[cfg(target_os = "linux")]
mod system {
    use std::ffi::{c_int, c_void};
    use std::ptr;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    /// How many maps are guarded at most; one beyond them is not.
    const MAPS: usize = 1024;

    /// The guarded maps. A signal's handler may wait for nobody: these are plain numbers.
    static SLOTS: [Slot; MAPS] = [const { Slot::free() }; MAPS];

    /// What handled the signal before.
    static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

    /// Bytes of a page.
    static PAGE: AtomicUsize = AtomicUsize::new(0);

    /// The addresses of a guarded map.
    struct Slot {
        taken: AtomicBool,
        start: AtomicUsize,
        end: AtomicUsize,
        lost: AtomicBool,
    }

    impl Slot {
        const fn free() -> Self {
            Self {
                taken: AtomicBool::new(false),
                start: AtomicUsize::new(0),
                end: AtomicUsize::new(0),
                lost: AtomicBool::new(false),
            }
        }

        fn take(&self) -> bool {
            let taken =
                self.taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed);
            taken.is_ok()
        }

        fn covers(&self, address: usize) -> bool {
            let end = self.end.load(Ordering::Acquire);
            address < end && self.start.load(Ordering::Relaxed) <= address
        }
    }

    /// Guards a map as long as it lives.
    pub(in crate::file) struct Guard(&'static Slot);

    impl Guard {
        /// Guards these pages, which must stay mapped until it is dropped; `None` where that cannot
        /// be done.
        pub(in crate::file) fn over(map: &[u8]) -> Option<Self> {
            static INSTALLED: OnceLock<bool> = OnceLock::new();
            if !INSTALLED.get_or_init(install) {
                return None;
            }
            let slot = SLOTS.iter().find(|slot| slot.take())?;
            let span = map.as_ptr_range();
            slot.lost.store(false, Ordering::Relaxed);
            slot.start.store(span.start as usize, Ordering::Relaxed);
            // Last: until then the slot covers nothing.
            slot.end.store(span.end as usize, Ordering::Release);
            Some(Self(slot))
        }

        /// Whether a page was looked at that was not there.
        pub(in crate::file) fn lost(&self) -> bool {
            self.0.lost.load(Ordering::Acquire)
        }
    }

    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.end.store(0, Ordering::Release);
            self.0.taken.store(false, Ordering::Release);
        }
    }

    /// Bytes of a page, once anything is guarded.
    pub(in crate::file) fn page_size() -> usize {
        PAGE.load(Ordering::Relaxed).max(1)
    }

    /// Handles the signal from now on.
    fn install() -> bool {
        // SAFETY: `sysconf` only answers.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let Some(page) = usize::try_from(page).ok().filter(|page| page.is_power_of_two()) else {
            return false;
        };
        PAGE.store(page, Ordering::Relaxed);
        // SAFETY: all of this structure may be zero; the calls are given pointers to whole ones, and a
        // handler that does only what is allowed in one.
        unsafe {
            let mut before: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut before) != 0 {
                return false;
            }
            BEFORE.get_or_init(|| before);
            let mut action: libc::sigaction = std::mem::zeroed();
            let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = on_bus_error;
            action.sa_sigaction = handler as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&raw mut action.sa_mask);
            libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) == 0
        }
    }

    extern "C" fn on_bus_error(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
        // SAFETY: the system calls this with what it found; with this signal it has an address.
        let address = unsafe { (*info).si_addr() } as usize;
        match SLOTS.iter().find(|slot| slot.covers(address)) {
            Some(slot) if put_empty_page(address) => slot.lost.store(true, Ordering::Release),
            _ => hand_on(signal, info, context),
        }
    }

    /// Puts a page of zeros where this address is, which nothing else does to a map.
    fn put_empty_page(address: usize) -> bool {
        let page = page_size();
        let start = address & !(page - 1);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        // SAFETY: the page lies in a map that is guarded, thus mapped, and only ever read. What was
        // interrupted finds its `errno` as it was.
        unsafe {
            let errno = *libc::__errno_location();
            let place = ptr::with_exposed_provenance_mut(start);
            let put = libc::mmap(place, page, libc::PROT_READ, flags, -1, 0);
            *libc::__errno_location() = errno;
            put != libc::MAP_FAILED
        }
    }

    /// Does what was done before with the signal.
    fn hand_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
        let before = BEFORE.get().map_or((libc::SIG_DFL, 0), |it| (it.sa_sigaction, it.sa_flags));
        match before {
            // The fault happens again, and ends the process.
            // SAFETY: that is what it does in a program that handles nothing.
            (libc::SIG_DFL | libc::SIG_IGN, _) => unsafe {
                libc::signal(signal, libc::SIG_DFL);
            },
            // SAFETY: whoever installed it said so of its form.
            (handler, flags) if flags & libc::SA_SIGINFO != 0 => unsafe {
                let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
                    std::mem::transmute(handler);
                handler(signal, info, context);
            },
            // SAFETY: as above.
            (handler, _) => unsafe {
                let handler: extern "C" fn(c_int) = std::mem::transmute(handler);
                handler(signal);
            },
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    /// Guards nothing.
    pub(in crate::file) struct Guard;

    impl Guard {
        pub(in crate::file) fn over(_: &[u8]) -> Option<Self> {
            None
        }

        pub(in crate::file) fn lost(&self) -> bool {
            false
        }
    }
}
