use std::sync::Arc;
use std::thread;

use super::*;
use crate::rig::Wire;

#[test]
fn the_wire_is_high_from_the_event_to_the_acknowledgement() {
    let wire = Wire::default();
    let interrupt = Interrupt::new(Box::new(wire.clone()));
    interrupt.used(0);
    assert_eq!((interrupt.status(), wire.is_high()), (INTERRUPT_USED, true));
    interrupt.config_changed();
    interrupt.acknowledge(INTERRUPT_USED);
    assert_eq!(
        (interrupt.status(), wire.is_high()),
        (INTERRUPT_CONFIG, true)
    );
    interrupt.acknowledge(u32::MAX);
    assert_eq!((interrupt.status(), wire.is_high()), (0, false));
}

#[test]
fn a_bit_that_is_left_gives_a_new_edge() {
    let wire = Wire::default();
    let interrupt = Interrupt::new(Box::new(wire.clone()));
    interrupt.config_changed();
    interrupt.used(0);
    assert_eq!(wire.edges(), 1);
    interrupt.acknowledge(INTERRUPT_CONFIG);
    assert_eq!((wire.edges(), wire.is_high()), (2, true));
    interrupt.acknowledge(INTERRUPT_USED);
    assert_eq!((wire.edges(), wire.is_high()), (2, false));
}

#[test]
fn needing_a_reset_is_a_configuration_change_that_a_reset_forgets() {
    let wire = Wire::default();
    let interrupt = Interrupt::new(Box::new(wire.clone()));
    interrupt.needs_reset();
    assert!(interrupt.is_reset_needed());
    assert_eq!(interrupt.status(), INTERRUPT_CONFIG);
    interrupt.reset();
    assert!(!interrupt.is_reset_needed() && !wire.is_high());
}

/// A raise may come after an acknowledgement clears the last bit and before it lowers the wire.
#[test]
fn no_interleaving_of_raise_and_acknowledge_leaves_the_wire_wrong() {
    let wire = Wire::default();
    let interrupt = Arc::new(Interrupt::new(Box::new(wire.clone())));
    for round in 0..2000 {
        thread::scope(|scope| {
            scope.spawn(|| interrupt.used(0));
            scope.spawn(|| interrupt.acknowledge(INTERRUPT_USED));
            scope.spawn(|| interrupt.acknowledge(INTERRUPT_USED));
        });
        assert_eq!(wire.is_high(), interrupt.status() != 0, "round {round}");
        interrupt.acknowledge(u32::MAX);
    }
}

/// A guest that maps the registers reads InterruptStatus as soon as the wire is high.
#[test]
fn the_register_is_set_before_the_wire_rises() {
    struct Check(Arc<Registers>);
    impl IrqLine for Check {
        fn set(&self, high: bool) {
            assert_eq!(self.0.get(INTERRUPT_STATUS) != 0, high);
            if self.0.get(INTERRUPT_STATUS) & INTERRUPT_CONFIG != 0 {
                assert_eq!(self.0.get(STATUS), NEEDS_RESET);
            }
        }
    }
    let registers = Arc::new(Registers::default());
    let line = Box::new(Check(Arc::clone(&registers)));
    let interrupt = Interrupt::with_registers(registers, line);
    interrupt.used(0);
    interrupt.acknowledge(INTERRUPT_USED);
    interrupt.needs_reset();
    interrupt.reset();
}
