//! Registers without a device behind them, for the interrupt controllers.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::vec::Vec;

use crate::Registers;
use crate::imsic::InterruptFile;

/// Registers that return preset values, and record writes.
pub(crate) struct Ram {
    len: usize,
    values: RefCell<BTreeMap<usize, u32>>,
    written: RefCell<Vec<(usize, u32)>>,
}

impl Ram {
    pub(crate) fn new(len: usize) -> Self {
        Self { len, values: RefCell::default(), written: RefCell::default() }
    }

    pub(crate) fn set(&self, offset: usize, value: u32) {
        self.values.borrow_mut().insert(offset, value);
    }

    pub(crate) fn written(&self) -> Vec<(usize, u32)> {
        self.written.borrow().clone()
    }

    pub(crate) fn forget(&self) {
        self.written.borrow_mut().clear();
    }
}

impl Registers for Ram {
    fn read(&self, offset: usize) -> u32 {
        assert!(offset.is_multiple_of(4) && offset < self.len, "{offset:#x}");
        self.values.borrow().get(&offset).copied().unwrap_or(0)
    }

    fn write(&self, offset: usize, value: u32) {
        assert!(offset.is_multiple_of(4) && offset < self.len, "{offset:#x}");
        self.set(offset, value);
        self.written.borrow_mut().push((offset, value));
    }

    fn read_u8(&self, offset: usize) -> u8 {
        panic!("controllers have 32-bit registers: {offset:#x}")
    }

    fn read_u16(&self, offset: usize) -> u16 {
        panic!("controllers have 32-bit registers: {offset:#x}")
    }
}

/// An interrupt file.
#[derive(Default)]
pub(crate) struct File {
    values: RefCell<BTreeMap<usize, u64>>,
    top: Cell<u64>,
}

impl File {
    pub(crate) fn set(&self, select: usize, value: u64) {
        self.values.borrow_mut().insert(select, value);
    }

    pub(crate) fn get(&self, select: usize) -> u64 {
        self.values.borrow().get(&select).copied().unwrap_or(0)
    }

    /// The value of stopei until it is claimed.
    pub(crate) fn set_top(&self, top: u64) {
        self.top.set(top);
    }

    /// Accessed pending and enable registers with odd numbers.
    pub(crate) fn odd_registers(&self) -> Vec<usize> {
        let touched = self.values.borrow();
        touched
            .keys()
            .copied()
            .filter(|select| *select >= 0x80 && select % 2 == 1)
            .collect()
    }
}

impl InterruptFile for &File {
    fn read(&self, select: usize) -> u64 {
        self.get(select)
    }

    fn write(&self, select: usize, value: u64) {
        self.set(select, value);
    }

    fn claim_top(&self) -> u64 {
        self.top.take()
    }
}
