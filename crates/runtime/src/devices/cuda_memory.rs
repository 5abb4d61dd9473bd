//! Page-locked memory of the CUDA driver.

use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::result::{self, DriverError, ctx, device, primary_ctx};
use cudarc::driver::sys;

use crate::pinned::Driver;

/// The driver, in the context that Burn computes in on a device.
#[derive(Debug)]
struct Cuda {
    context: sys::CUcontext,
}

// SAFETY: the driver takes its contexts from any thread.
unsafe impl Send for Cuda {}
// SAFETY: as above.
unsafe impl Sync for Cuda {}

/// The driver of page-locked memory for a device. Every context may copy from it.
///
/// # Errors
/// When the driver has no context on the device.
pub(super) fn driver(index: usize) -> Result<Arc<dyn Driver>, String> {
    static KNOWN: Mutex<BTreeMap<usize, Arc<Cuda>>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(driver) = known.get(&index) {
        return Ok(Arc::clone(driver) as Arc<dyn Driver>);
    }
    let failed = |error: DriverError| format!("the CUDA driver has no context: {error:?}");
    let ordinal = i32::try_from(index).map_err(|error| error.to_string())?;
    result::init().map_err(failed)?;
    let handle = device::get(ordinal).map_err(failed)?;
    // SAFETY: `handle` comes from the driver just now. The context, which is the one that Burn retains, stays
    // retained for as long as the process runs: memory may be given back at its very end.
    let context = unsafe { primary_ctx::retain(handle) }.map_err(failed)?;
    let driver = Arc::new(Cuda { context });
    known.insert(index, Arc::clone(&driver));
    Ok(driver)
}

impl Cuda {
    /// Does this with the context current on this thread, and leaves the thread with the one that it had.
    fn within<T>(&self, work: impl FnOnce() -> Result<T, DriverError>) -> Result<T, DriverError> {
        let before = ctx::get_current()?;
        // SAFETY: the context is retained.
        unsafe { ctx::set_current(self.context) }?;
        let done = work();
        // SAFETY: it was current a moment ago; null is no context.
        unsafe { ctx::set_current(before.unwrap_or(std::ptr::null_mut())) }?;
        done
    }
}

impl Driver for Cuda {
    fn host_alloc(&self, bytes: usize) -> Result<NonNull<u8>, String> {
        // SAFETY: what comes back is used as bytes that are not written yet.
        let took =
            self.within(|| unsafe { result::malloc_host(bytes, sys::CU_MEMHOSTALLOC_PORTABLE) });
        let at =
            took.map_err(|error| format!("the driver gave no page-locked memory: {error:?}"))?;
        NonNull::new(at.cast()).ok_or_else(|| "the driver gave no page-locked memory".to_owned())
    }

    unsafe fn host_free(&self, at: NonNull<u8>) {
        // SAFETY: the caller's promise. What the driver says against it, such as that the process ends, helps nobody.
        let _ = self.within(|| unsafe { result::free_host(at.as_ptr().cast()) });
    }
}
