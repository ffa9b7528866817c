//! Contains panics of a library that handles damaged files. Our own code does not panic.
//!
//! The library runs in a thread of its own, which a panic does not leave: the panic hook reports it
//! as the error of the request and parks the thread for ever. So the program need not unwind, which
//! would make all of it larger and slower.

#![cfg_attr(
    not(feature = "qcow2"),
    allow(dead_code, reason = "only qcow2 has such a library")
)]

use std::cell::RefCell;
use std::io;
use std::mem::{self, ManuallyDrop};
use std::panic::PanicHookInfo;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, Builder};

/// The name of each thread whose panics are contained.
pub const CONTAINED: &str = "contained";

thread_local! {
    /// Where a contained thread reports.
    static REPORT: RefCell<Option<Sender<Outcome>>> = const { RefCell::new(None) };
}

/// For the panic hook, as the first thing that it does. Returns false unless panics of this thread
/// are contained. If they are, the panic is reported to the thread that waits, and this one stays
/// here for ever. In a program that unwinds, such as a test, it returns true, for the hook to
/// return.
pub fn report_if_contained(panic: &PanicHookInfo) -> bool {
    // A thread that ends may have no such variables any more.
    let Ok(Some(report)) = REPORT.try_with(RefCell::take) else {
        return false;
    };
    let text = panic.payload().downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.payload().downcast_ref::<&str>().copied());
    let text = text.unwrap_or("no message").replace('\n', " ");
    // Fails if nobody waits any more.
    let _ = report.send(Err(text));
    while cfg!(panic = "abort") {
        thread::park();
    }
    true
}

/// What a contained thread reports: its work is done, or the message of its panic.
type Outcome = Result<(), String>;

/// The error after a panic, with its message.
#[derive(Debug, thiserror::Error)]
#[error("the qcow2 library failed (imago: {0}), so the disk is not used any more")]
pub(crate) struct Panicked(String);

/// Runs `work` in a thread that ends with it.
///
/// # Errors
/// `work` failed, or [`Panicked`]; or the host cannot start a thread.
pub(crate) fn contain<A: Send + 'static>(
    work: impl FnOnce() -> io::Result<A> + Send + 'static,
) -> io::Result<A> {
    Contained::new(()).run(|()| work())
}

/// A value that is used in a thread of its own. The thread starts with the first use, so it has the
/// signal mask of a user, not of whoever made the value.
#[derive(Debug)]
pub(crate) struct Contained<T> {
    /// Before the first use.
    unused: Option<T>,
    /// From then on, until a panic.
    thread: Option<Thread<T>>,
}

impl<T: Send + 'static> Contained<T> {
    /// Contains `value`.
    pub(crate) fn new(value: T) -> Self {
        Contained { unused: Some(value), thread: None }
    }

    /// Lets the thread do `work`, and waits for it. After a panic all further work fails.
    ///
    /// # Errors
    /// `work` failed, or [`Panicked`]; it panicked before; or the host cannot start a thread.
    pub(crate) fn run<A: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut T) -> io::Result<A> + Send + 'static,
    ) -> io::Result<A> {
        if let Some(value) = self.unused.take() {
            self.thread = Some(Thread::start(value)?);
        }
        let failed_before = || io::Error::other("the qcow2 library failed earlier");
        let thread = self.thread.as_ref().ok_or_else(failed_before)?;
        let (answer, answers) = channel();
        if let Some(works) = &thread.work {
            // Fails if the thread has ended. Then it has no report either.
            let _ = works.send(Box::new(move |value| drop(answer.send(work(value)))));
        }
        match thread.outcomes.recv() {
            Ok(Ok(())) => answers.recv().unwrap_or_else(|_| Err(failed_before())),
            outcome => {
                // Its end is not awaited: it may be parked.
                mem::forget(self.thread.take());
                // Without a report it unwound: the hook is not the program's.
                let text = outcome.ok().and_then(Result::err);
                let text = text.unwrap_or_else(|| "no message".into());
                Err(io::Error::other(Panicked(text)))
            }
        }
    }
}

type Work<T> = Box<dyn FnOnce(&mut T) + Send>;

#[derive(Debug)]
struct Thread<T> {
    /// `None` at the end.
    work: Option<Sender<Work<T>>>,
    outcomes: Receiver<Outcome>,
}

impl<T: Send + 'static> Thread<T> {
    fn start(value: T) -> io::Result<Thread<T>> {
        let (work, works) = channel::<Work<T>>();
        let (report, outcomes) = channel();
        // After a panic it is not dropped: that could write to a file, or panic again.
        let mut value = ManuallyDrop::new(value);
        Builder::new().name(CONTAINED.into()).spawn(move || {
            REPORT.set(Some(report.clone()));
            for work in works {
                work(&mut value);
                // Fails if nobody waits any more.
                let _ = report.send(Ok(()));
            }
            ManuallyDrop::into_inner(value);
        })?;
        Ok(Thread { work: Some(work), outcomes })
    }
}

impl<T> Drop for Thread<T> {
    /// Waits until the value is dropped, or has panicked.
    fn drop(&mut self) {
        self.work = None;
        while let Ok(Ok(())) = self.outcomes.recv() {}
    }
}

#[cfg(test)]
#[path = "contain_test.rs"]
pub(crate) mod tests;
