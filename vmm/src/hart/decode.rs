//! Which access to memory an instruction makes: loads and stores of integers, floating point and
//! vectors, AMOs and cache-block operations, compressed ones too (unprivileged architecture, the
//! tables of "RV32/64G Instruction Set Listings" and of "C"; Zcb; V; CMO).
//!
//! The words are the guest's: any value is an instruction, or none.

use super::{Hart, Register, paging::Use};

use std::io;

/// An instruction that loads or stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Bytes of the instruction: 2 or 4.
    pub length: u64,
    /// Whether it loads. What does both, stores.
    pub what: Use,
    /// Bytes of one access: a power of two, 1 to 16.
    pub size: u64,
    /// What is moved, if it is one register.
    pub data: Data,
    base: u8,
    offset: Offset,
}

/// What a load or store moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// An integer register. A load extends the sign.
    Signed(u8),
    /// An integer register. A load fills up with zeroes.
    Unsigned(u8),
    /// A floating-point register. A load fills up with ones (NaN boxing).
    Float(u8),
    /// More than one register, or something atomic, or nothing.
    Other,
}

/// What is added to the base register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Offset {
    /// So many bytes.
    Immediate(i16),
    /// So many bytes for each vector element before the one that is at fault.
    Elements(u64),
    /// The value of a register for each vector element before.
    Stride(u8),
    /// An element of a vector register.
    Vector,
}

impl Instruction {
    /// Decodes a word, of which a compressed instruction uses the lower half. `None`: it neither
    /// loads nor stores, or is nothing that we know.
    pub fn decode(word: u32) -> Option<Instruction> {
        match word & 3 {
            3 => full(word),
            0 => compressed(word),
            2 => by_stack(word),
            _ => None,
        }
    }

    /// The guest address of the access, as `hart` stands. `None`: the hart's registers that we have
    /// do not tell.
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

/// The value of an integer register.
///
/// # Errors
/// The hypervisor's.
pub fn integer(hart: &dyn Hart, register: u8) -> io::Result<u64> {
    match register {
        0 => Ok(0),
        _ => hart.get(Register::X(register)),
    }
}

/// Bits `at` and up of a word, as many as `count`, below 16.
#[expect(
    clippy::cast_possible_truncation,
    reason = "no field has more than 12 bits"
)]
const fn bits(word: u32, at: u32, count: u32) -> u16 {
    (word >> at & ((1 << count) - 1)) as u16
}

/// The number of a register, whose field begins at bit `at`.
#[expect(clippy::cast_possible_truncation, reason = "5 bits")]
const fn register(word: u32, at: u32) -> u8 {
    bits(word, at, 5) as u8
}

/// The same of the short fields of compressed instructions: x8 to x15.
#[expect(clippy::cast_possible_truncation, reason = "3 bits")]
const fn short_register(word: u32, at: u32) -> u8 {
    8 + bits(word, at, 3) as u8
}

/// A 12-bit immediate, whose sign is its highest bit.
const fn signed(bits: u16) -> Offset {
    Offset::Immediate((bits << 4).cast_signed() >> 4)
}

/// An instruction of 32 bits.
fn full(word: u32) -> Option<Instruction> {
    let width = bits(word, 12, 3);
    let (upper, rd, rs2) = (bits(word, 20, 12), register(word, 7), register(word, 20));
    let (load, store) = (
        signed(upper),
        signed(upper & !0x1f | u16::from(register(word, 7))),
    );
    let plain = |what, size, data, offset| {
        Some(Instruction {
            length: 4,
            what,
            size,
            data,
            base: register(word, 15),
            offset,
        })
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
        // A cache block is aligned, and no byte of it is worse than another.
        (0x0f, 2) => plain(Use::Store, 1, Data::Other, Offset::Immediate(0)),
        _ => None,
    }
}

/// The bytes of an element of a vector load or store, and where elements lie.
fn vector(word: u32, width: u16) -> (u64, Offset) {
    let size = match width {
        0 => 1,
        _ => 1 << (width & 3),
    };
    let segment = size * (1 + u64::from(bits(word, 29, 3)));
    let offset = match (bits(word, 26, 2), register(word, 20)) {
        // Whole registers have a number where others have fields.
        (0, 0b01000) => Offset::Elements(size),
        (0, _) => Offset::Elements(segment),
        (2, stride) => Offset::Stride(stride),
        _ => Offset::Vector,
    };
    (size, offset)
}

/// A compressed instruction with a base register of its own.
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

/// A compressed instruction on the stack, x2.
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
