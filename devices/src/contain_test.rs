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
            if !report_if_contained(info) {
                before(info);
            }
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
    let text = "the qcow2 library failed (imago: no: \"value\"), so the disk is not used any more";
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
