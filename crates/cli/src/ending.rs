//! How the program ends where something goes wrong that no error tells of: never by a signal, and with
//! a sentence.

use std::any::Any;
use std::panic;
use std::sync::{Mutex, PoisonError};

/// Where the last panic was raised: a panic that is caught far away no longer knows.
static RAISED: Mutex<Option<String>> = Mutex::new(None);

/// Has files that grow too large, closed pipes and aborts end in errors, and keeps traces for those
/// who ask for them (`RUST_BACKTRACE`).
pub fn prepare() {
    signals();
    let traces = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let place = info.location().map(|place| format!("{}:{}", place.file(), place.line()));
        *RAISED.lock().unwrap_or_else(PoisonError::into_inner) = place;
        if traces {
            usual(info);
        }
    }));
}

/// What a panic said, as the message of an error, with where it was raised.
pub fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    match raised() {
        Some(place) => format!("internal error: {text} ({place})"),
        None => format!("internal error: {text}"),
    }
}

/// Where the last panic was raised that nobody asked for yet: `file.rs:10`.
pub fn raised() -> Option<String> {
    RAISED.lock().unwrap_or_else(PoisonError::into_inner).take()
}

#[cfg(unix)]
fn signals() {
    use std::ffi::c_int;

    use nix::libc;
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

    /// A stack that overflowed, or a library that gave up. Rust has said which.
    extern "C" fn aborted(_: c_int) {
        const MESSAGE: &[u8] =
            b"error: distorch had to stop; this is a fault in it, please report it\n";
        // SAFETY: both calls may be made in a signal's handler; the bytes are a constant.
        unsafe {
            libc::write(2, MESSAGE.as_ptr().cast(), MESSAGE.len());
            libc::_exit(1);
        }
    }
    let set = |signal, handler| {
        let action = SigAction::new(handler, SaFlags::SA_ONSTACK, SigSet::empty());
        // SAFETY: the handler does nothing that a handler may not do. Where it cannot be set, the
        // signal ends the program as it always did.
        let _ = unsafe { sigaction(signal, &action) };
    };
    // A file that may not grow any more is an error of the write.
    set(Signal::SIGXFSZ, SigHandler::SigIgn);
    set(Signal::SIGABRT, SigHandler::Handler(aborted));
}

#[cfg(not(unix))]
fn signals() {}
