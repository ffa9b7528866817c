//! Every interleaving of raises and acknowledgements: the line and the status agree at the end.

use std::sync::Arc;

use loom::thread;

use super::*;
use crate::sync::{AtomicBool, Ordering};

/// A line that orders its writers, as an interrupt controller does.
#[derive(Clone)]
struct Wire(Arc<AtomicBool>);

impl IrqLine for Wire {
    fn set(&self, high: bool) {
        self.0.swap(high, Ordering::AcqRel);
    }
}

fn interrupt() -> (Wire, Arc<Interrupt>) {
    let wire = Wire(Arc::new(AtomicBool::new(false)));
    let interrupt = Interrupt::new(Box::new(wire.clone()));
    (wire, Arc::new(interrupt))
}

fn agree(wire: &Wire, interrupt: &Interrupt) {
    let high = wire.0.load(Ordering::SeqCst);
    assert_eq!(high, interrupt.status() != 0);
}

#[test]
fn a_raise_and_an_acknowledgement_leave_the_wire_right() {
    loom::model(|| {
        let (wire, interrupt) = interrupt();
        interrupt.used(0);
        let worker = {
            let interrupt = Arc::clone(&interrupt);
            thread::spawn(move || interrupt.used(0))
        };
        interrupt.acknowledge(INTERRUPT_USED);
        worker.join().unwrap();
        agree(&wire, &interrupt);
    });
}

#[test]
fn two_raises_and_an_acknowledgement_leave_the_wire_right() {
    loom::model(|| {
        let (wire, interrupt) = interrupt();
        let used = Arc::clone(&interrupt);
        let config = Arc::clone(&interrupt);
        let used = thread::spawn(move || used.used(0));
        let config = thread::spawn(move || config.config_changed());
        interrupt.acknowledge(INTERRUPT_USED);
        used.join().unwrap();
        config.join().unwrap();
        agree(&wire, &interrupt);
        assert_ne!(interrupt.status() & INTERRUPT_CONFIG, 0);
    });
}
