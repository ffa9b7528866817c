//! Contains panics of a library that handles damaged files. Our own code does not panic.

#![cfg_attr(
    not(feature = "qcow2"),
    allow(dead_code, reason = "only qcow2 has such a library")
)]

use std::any::Any;
use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread is contained. A panic hook then neither reports it nor ends the
/// process.
pub fn is_contained() -> bool {
    // Without unwinding a panic ends the process whatever a hook does.
    cfg!(panic = "unwind") && CONTAINED.get()
}

/// Runs `work`. After an error of the kind [`Panicked`], nothing that it changed may be used again.
///
/// # Errors
/// `work` failed, or panicked.
pub(crate) fn contain<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    CONTAINED.set(true);
    // Unwind safe: after a panic, what `work` changed is not used again.
    let result = catch_unwind(AssertUnwindSafe(work));
    CONTAINED.set(false);
    result.unwrap_or_else(|panic| Err(io::Error::other(Panicked(text(&*panic)))))
}

/// The error after a panic, with its message.
#[derive(Debug, thiserror::Error)]
#[error("the qcow2 library failed (imago: {0}), so the disk is not used any more")]
pub(crate) struct Panicked(String);

/// Whether `error` is [`Panicked`].
pub(crate) fn is_panic(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|error| error.is::<Panicked>())
}

fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("no message").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_with_its_message() {
        assert!(!is_contained());
        let error = contain::<()>(|| {
            assert!(is_contained());
            std::panic::panic_any(String::from("no: \"value\""))
        });
        let error = error.unwrap_err();
        assert!(is_panic(&error) && !is_contained());
        let text =
            "the qcow2 library failed (imago: no: \"value\"), so the disk is not used any more";
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn values_and_other_errors_are_passed_on() {
        assert_eq!(contain(|| Ok(3)).unwrap(), 3);
        let error = contain::<()>(|| Err(io::ErrorKind::NotFound.into()));
        let error = error.unwrap_err();
        assert!(!is_panic(&error) && error.kind() == io::ErrorKind::NotFound);
    }
}
