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
use std::panic::PanicHookInfo;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, Builder};

/// The name of each thread whose panics are contained.
pub const CONTAINED: &str = "contained";

thread_local! {
    /// Where a contained thread reports.
    static REPORT: RefCell<Option<Sender<Outcome>>> = const { RefCell::new(None) };
}

/// For the panic hook, as the first thing that it does. If panics of this thread are contained, the
/// call reports the panic to the thread that waits, and does not return.
pub fn park_if_contained(panic: &PanicHookInfo) {
    // A thread that ends may have no such variables any more.
    let Ok(Some(report)) = REPORT.try_with(RefCell::take) else {
        return;
    };
    let text = panic.payload().downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.payload().downcast_ref::<&str>().copied());
    let text = text.unwrap_or("no message").replace('\n', " ");
    // Fails if nobody waits any more.
    let _ = report.send(Outcome::Panicked(text));
    loop {
        thread::park();
    }
}

/// How a contained thread has done its work.
enum Outcome {
    Done,
    Panicked(String),
}

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
        thread.send(Box::new(move |value| drop(answer.send(work(value)))));
        match thread.outcomes.recv() {
            Ok(Outcome::Done) => answers.recv().unwrap_or_else(|_| Err(failed_before())),
            outcome => {
                // It does not end: nobody may wait for that.
                if let Some(mut thread) = self.thread.take() {
                    thread.work = None;
                }
                let text = match outcome {
                    Ok(Outcome::Panicked(text)) => text,
                    // It unwound, since the hook is not ours.
                    _ => "no message".into(),
                };
                Err(io::Error::other(Panicked(text)))
            }
        }
    }
}

type Work<T> = Box<dyn FnOnce(&mut T) + Send>;

#[derive(Debug)]
struct Thread<T> {
    /// `None` at the end, and after a panic.
    work: Option<Sender<Work<T>>>,
    outcomes: Receiver<Outcome>,
}

impl<T: Send + 'static> Thread<T> {
    fn start(mut value: T) -> io::Result<Thread<T>> {
        let (work, works) = channel::<Work<T>>();
        let (report, outcomes) = channel();
        Builder::new().name(CONTAINED.into()).spawn(move || {
            REPORT.set(Some(report.clone()));
            for work in works {
                work(&mut value);
                // Fails if nobody waits any more.
                let _ = report.send(Outcome::Done);
            }
        })?;
        Ok(Thread { work: Some(work), outcomes })
    }

    /// If the thread has ended, so has its side of `outcomes`.
    fn send(&self, work: Work<T>) {
        if let Some(to) = &self.work {
            let _ = to.send(work);
        }
    }
}

impl<T> Drop for Thread<T> {
    /// Waits until the value is dropped, or has panicked.
    fn drop(&mut self) {
        if self.work.take().is_some() {
            while let Ok(Outcome::Done) = self.outcomes.recv() {}
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Once;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;

    /// The hook of a program.
    pub(crate) fn install_hook() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                park_if_contained(info);
                before(info);
            }));
        });
    }

    #[test]
    fn a_panic_becomes_an_error_with_its_message_and_no_more_work_is_done() {
        install_hook();
        let mut value = Contained::new(3);
        assert_eq!(value.run(|value| Ok(*value)).unwrap(), 3);
        let error = value.run::<()>(|_| panic!("no: {:?}", "value"));
        let error = error.unwrap_err();
        assert!(error.get_ref().unwrap().is::<Panicked>());
        let text =
            "the qcow2 library failed (imago: no: \"value\"), so the disk is not used any more";
        assert_eq!(error.to_string(), text);
        let error = value.run(|_| Ok(())).unwrap_err();
        assert_eq!(error.to_string(), "the qcow2 library failed earlier");
    }

    #[test]
    fn values_and_other_errors_are_passed_on() {
        assert_eq!(contain(|| Ok(3)).unwrap(), 3);
        let error = contain::<()>(|| Err(io::ErrorKind::NotFound.into()));
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    static DROPPED: AtomicBool = AtomicBool::new(false);

    struct Slow;

    impl Drop for Slow {
        fn drop(&mut self) {
            thread::sleep(Duration::from_millis(50));
            DROPPED.store(true, Ordering::SeqCst);
        }
    }

    struct Faulty;

    impl Drop for Faulty {
        fn drop(&mut self) {
            panic!("at the end");
        }
    }

    #[test]
    fn its_end_is_awaited_and_may_panic() {
        install_hook();
        let mut slow = Contained::new(Slow);
        slow.run(|_| Ok(())).unwrap();
        drop(slow);
        assert!(DROPPED.load(Ordering::SeqCst));
        let mut faulty = Contained::new(Faulty);
        faulty.run(|_| Ok(())).unwrap();
    }
}
