//! A model of a hart for tests: only registers.

use std::collections::BTreeMap;
use std::io;

use super::{Hart, Register};

/// Registers, initially zero.
#[derive(Debug, Default)]
pub(crate) struct Model {
    registers: BTreeMap<String, u64>,
    /// How many instructions were completed.
    pub(crate) completed: u32,
}

impl Model {
    /// Creates a hart with these registers.
    pub(crate) fn new(registers: &[(Register, u64)]) -> Model {
        let mut model = Model::default();
        for &(register, value) in registers {
            model.set(register, value).unwrap();
        }
        model
    }

    /// Returns a register's value.
    pub(crate) fn value(&self, register: Register) -> u64 {
        self.get(register).unwrap()
    }
}

impl Hart for Model {
    fn id(&self) -> u32 {
        7
    }

    fn get(&self, register: Register) -> io::Result<u64> {
        assert_ne!(register, Register::X(0), "x0 is no register of KVM's");
        let value = self.registers.get(&format!("{register:?}"));
        Ok(value.copied().unwrap_or(0))
    }

    fn set(&mut self, register: Register, value: u64) -> io::Result<()> {
        assert_ne!(register, Register::X(0), "x0 is no register of KVM's");
        self.registers.insert(format!("{register:?}"), value);
        Ok(())
    }

    /// Does what KVM does: writes the loaded value to a register and moves pc to the next
    /// instruction.
    fn complete(&mut self) -> io::Result<()> {
        self.completed += 1;
        self.set(Register::X(10), 0xdead)?;
        self.set(Register::Pc, self.value(Register::Pc) + 4)
    }
}
