//! Decodes the memory access of an instruction: integer, floating-point and vector loads and
//! stores, AMOs and cache-block operations, including compressed ones (unprivileged architecture,
//! "RV32/64G Instruction Set Listings", the tables of "C"; Zcb; V; CMO).
//!
//! The words come from the guest, so any value must be handled.

use super::{Hart, Register, paging::Use};

use std::io;

/// A load or store instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Bytes of the instruction: 2 or 4.
    pub length: u64,
    /// Load or store. An AMO, which does both, is a store.
    pub what: Use,
    /// Bytes per access: a power of two, 1 to 16.
    pub size: u64,
    /// The register that is loaded or stored, if there is exactly one.
    pub data: Data,
    base: u8,
    offset: Offset,
}

/// What a load or store moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// An integer register. A load sign-extends.
    Signed(u8),
    /// An integer register. A load zero-extends.
    Unsigned(u8),
    /// A floating-point register. A load fills the upper bits with ones (NaN boxing).
    Float(u8),
    /// Several registers, an atomic operation, or no data.
    Other,
}

/// What is added to the base register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Offset {
    /// Bytes.
    Immediate(i16),
    /// Bytes per vector element before the faulting one (vstart).
    Elements(u64),
    /// A register's value per vector element before the faulting one.
    Stride(u8),
    /// An element of a vector register, which KVM does not give us here.
    Vector,
}

impl Instruction {
    /// Decodes a word. A compressed instruction is its lower half. Returns `None` if it is no load
    /// or store, or unknown.
    pub fn decode(word: u32) -> Option<Instruction> {
        match word & 3 {
            3 => full(word),
            0 => compressed(word),
            2 => by_stack(word),
            _ => None,
        }
    }

    /// Returns the guest virtual address of the access. `None` means that it depends on a register
    /// that [`Register`] lacks.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn address(&self, hart: &dyn Hart) -> io::Result<Option<u64>> {
        let base = integer(hart, self.base)?;
        let add = match self.offset {
            Offset::Immediate(bytes) => i64::from(bytes).cast_unsigned(),
            Offset::Elements(bytes) => hart.get(Register::Vstart)?.wrapping_mul(bytes),
            Offset::Stride(register) => hart
                .get(Register::Vstart)?
                .wrapping_mul(integer(hart, register)?),
            Offset::Vector => return Ok(None),
        };
        Ok(Some(base.wrapping_add(add)))
    }
}

/// Returns the value of an integer register.
///
/// # Errors
/// The hypervisor's.
pub fn integer(hart: &dyn Hart, register: u8) -> io::Result<u64> {
    match register {
        0 => Ok(0),
        _ => hart.get(Register::X(register)),
    }
}

/// Returns `count` bits (at most 12) of a word, from bit `at` up.
#[expect(
    clippy::cast_possible_truncation,
    reason = "no field has more than 12 bits"
)]
const fn bits(word: u32, at: u32, count: u32) -> u16 {
    (word >> at & ((1 << count) - 1)) as u16
}

/// The number of the register in the field at bit `at`.
#[expect(clippy::cast_possible_truncation, reason = "5 bits")]
const fn register(word: u32, at: u32) -> u8 {
    bits(word, at, 5) as u8
}

/// The same for the short fields of compressed instructions: x8 to x15.
#[expect(clippy::cast_possible_truncation, reason = "3 bits")]
const fn short_register(word: u32, at: u32) -> u8 {
    8 + bits(word, at, 3) as u8
}

/// A 12-bit immediate, sign-extended.
const fn signed(bits: u16) -> Offset {
    Offset::Immediate((bits << 4).cast_signed() >> 4)
}

/// Decodes a 32-bit instruction.
fn full(word: u32) -> Option<Instruction> {
    let width = bits(word, 12, 3);
    let (upper, rd, rs2) = (bits(word, 20, 12), register(word, 7), register(word, 20));
    let (load, store) = (
        signed(upper),
        signed(upper & !0x1f | u16::from(register(word, 7))),
    );
    let plain = |what, size, data, offset| {
        Some(Instruction { length: 4, what, size, data, base: register(word, 15), offset })
    };
    match (word & 0x7f, width) {
        (0x03, 0..=3) => plain(Use::Load, 1 << width, Data::Signed(rd), load),
        (0x03, 4..=6) => plain(Use::Load, 1 << (width - 4), Data::Unsigned(rd), load),
        (0x23, 0..=3) => plain(Use::Store, 1 << width, Data::Unsigned(rs2), store),
        (0x07, 1..=3) => plain(Use::Load, 1 << width, Data::Float(rd), load),
        (0x27, 1..=3) => plain(Use::Store, 1 << width, Data::Float(rs2), store),
        (0x07, 4) => plain(Use::Load, 16, Data::Other, load),
        (0x27, 4) => plain(Use::Store, 16, Data::Other, store),
        (opcode @ (0x07 | 0x27), width) => {
            let (size, offset) = vector(word, width);
            let what = match opcode {
                0x07 => Use::Load,
                _ => Use::Store,
            };
            plain(what, size, Data::Other, offset)
        }
        (0x2f, 0..=4) => {
            let what = match word >> 27 {
                0b00010 => Use::Load,
                _ => Use::Store,
            };
            plain(what, 1 << width, Data::Other, Offset::Immediate(0))
        }
        // A cache block is aligned, so all of its bytes fault alike.
        (0x0f, 2) => plain(Use::Store, 1, Data::Other, Offset::Immediate(0)),
        _ => None,
    }
}

/// Returns the bytes per element of a vector load or store, and how elements are addressed.
fn vector(word: u32, width: u16) -> (u64, Offset) {
    let size = match width {
        0 => 1,
        _ => 1 << (width & 3),
    };
    let segment = size * (1 + u64::from(bits(word, 29, 3)));
    let offset = match (bits(word, 26, 2), register(word, 20)) {
        // Whole-register accesses: the segment field is the number of registers.
        (0, 0b01000) => Offset::Elements(size),
        (0, _) => Offset::Elements(segment),
        (2, stride) => Offset::Stride(stride),
        _ => Offset::Vector,
    };
    (size, offset)
}

/// Decodes a compressed instruction with a base register field.
fn compressed(word: u32) -> Option<Instruction> {
    let register = short_register(word, 2);
    let double = bits(word, 10, 3) << 3 | bits(word, 5, 2) << 6;
    let single = bits(word, 6, 1) << 2 | bits(word, 10, 3) << 3 | bits(word, 5, 1) << 6;
    let half = bits(word, 5, 1) << 1;
    let byte = bits(word, 6, 1) | half;
    let (what, size, data, offset) = match (bits(word, 13, 3), bits(word, 10, 3)) {
        (1, _) => (Use::Load, 8, Data::Float(register), double),
        (2, _) => (Use::Load, 4, Data::Signed(register), single),
        (3, _) => (Use::Load, 8, Data::Signed(register), double),
        (5, _) => (Use::Store, 8, Data::Float(register), double),
        (6, _) => (Use::Store, 4, Data::Unsigned(register), single),
        (7, _) => (Use::Store, 8, Data::Unsigned(register), double),
        // Zcb
        (4, 0) => (Use::Load, 1, Data::Unsigned(register), byte),
        (4, 1) => match bits(word, 6, 1) {
            0 => (Use::Load, 2, Data::Unsigned(register), half),
            _ => (Use::Load, 2, Data::Signed(register), half),
        },
        (4, 2) => (Use::Store, 1, Data::Unsigned(register), byte),
        (4, 3) if bits(word, 6, 1) == 0 => (Use::Store, 2, Data::Unsigned(register), half),
        _ => return None,
    };
    Some(Instruction {
        length: 2,
        what,
        size,
        data,
        base: short_register(word, 7),
        offset: Offset::Immediate(offset.cast_signed()),
    })
}

/// Decodes a compressed instruction whose base is the stack pointer, x2.
fn by_stack(word: u32) -> Option<Instruction> {
    let (rd, rs2) = (register(word, 7), register(word, 2));
    let load8 = bits(word, 5, 2) << 3 | bits(word, 12, 1) << 5 | bits(word, 2, 3) << 6;
    let load4 = bits(word, 4, 3) << 2 | bits(word, 12, 1) << 5 | bits(word, 2, 2) << 6;
    let store8 = bits(word, 10, 3) << 3 | bits(word, 7, 3) << 6;
    let store4 = bits(word, 9, 4) << 2 | bits(word, 7, 2) << 6;
    let (what, size, data, offset) = match bits(word, 13, 3) {
        1 => (Use::Load, 8, Data::Float(rd), load8),
        2 => (Use::Load, 4, Data::Signed(rd), load4),
        3 => (Use::Load, 8, Data::Signed(rd), load8),
        5 => (Use::Store, 8, Data::Float(rs2), store8),
        6 => (Use::Store, 4, Data::Unsigned(rs2), store4),
        7 => (Use::Store, 8, Data::Unsigned(rs2), store8),
        _ => return None,
    };
    Some(Instruction {
        length: 2,
        what,
        size,
        data,
        base: 2,
        offset: Offset::Immediate(offset.cast_signed()),
    })
}

#[cfg(test)]
#[path = "decode_test.rs"]
mod tests;
