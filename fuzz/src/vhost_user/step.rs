//! The steps of a front end and its guest.

use arbitrary::Arbitrary;

use super::user;
use crate::driver::{Layout, Shape, few, seldom};
use crate::ram::{BASE, ISLAND, ISLAND_LEN, LEN};

#[derive(Debug, Arbitrary)]
pub(super) enum Step {
    /// The start sequence of a front end, up to this step.
    Begin(Layout, u8),
    /// A message without content, by index.
    Plain(u8),
    Features(u64, #[arbitrary(with = seldom)] Option<u8>),
    Protocol(u64, #[arbitrary(with = seldom)] Option<u8>),
    Table(#[arbitrary(with = few)] Vec<Region>),
    Add(Region),
    Remove(Region),
    Size(Ring, Number),
    Areas(Ring, Layout, #[arbitrary(with = seldom)] Option<u64>),
    Start(Ring, Number),
    Stop(Ring),
    Event(u8, Ring, Descriptor),
    Enable(Ring, Number),
    ReadConfig(u8, u8, #[arbitrary(with = seldom)] Option<[u32; 2]>),
    WriteConfig(u8, [u8; 4], #[arbitrary(with = seldom)] Option<[u32; 2]>),
    /// A message of any kind.
    Any {
        code: u8,
        #[arbitrary(with = seldom)]
        flags: Option<u32>,
        #[arbitrary(with = few)]
        words: Vec<Word>,
        #[arbitrary(with = few)]
        descriptors: Vec<Descriptor>,
    },
    /// A truncated message, or one with a wrong length. Then the front end hangs up.
    Truncated(u8, Vec<u8>, u32),
    HangUp,
    /// The guest makes a request available.
    Offer {
        ring: bool,
        #[arbitrary(with = few)]
        writable: Vec<u16>,
        header: [u8; 10],
        shape: Shape,
    },
    Notify(bool),
}

/// One of the two rings, or another index.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub(super) struct Ring(
    pub(super) bool,
    #[arbitrary(with = seldom)] pub(super) Option<u32>,
);

impl Ring {
    pub(super) fn index(self) -> u32 {
        self.1.unwrap_or(self.0.into())
    }
}

#[derive(Debug, Clone, Copy, Arbitrary)]
pub(super) enum Number {
    Small(u8),
    Power(u8),
    Any(u32),
}

impl Number {
    pub(super) fn value(self) -> u32 {
        match self {
            Number::Small(value) => (value % 4).into(),
            Number::Power(bit) => 1 << (bit % 17),
            Number::Any(value) => value,
        }
    }
}

#[derive(Debug, Clone, Copy, Arbitrary)]
pub(super) enum Word {
    Small(u8),
    Bit(u8),
    Guest(u16),
    User(u16),
    Len,
    NearTheEnd(u8),
    Any(u64),
}

impl Word {
    pub(super) fn value(self) -> u64 {
        match self {
            Word::Small(value) => value.into(),
            Word::Bit(bit) => 1 << (bit % 64),
            Word::Guest(offset) => BASE + u64::from(offset),
            Word::User(offset) => super::USER + u64::from(offset),
            Word::Len => LEN,
            Word::NearTheEnd(by) => u64::MAX - u64::from(by),
            Word::Any(value) => value,
        }
    }
}

/// A region of memory to share.
#[derive(Debug, Clone, Arbitrary)]
pub(super) struct Region {
    pub(super) island: bool,
    /// One of its four numbers, and its wrong value.
    #[arbitrary(with = seldom)]
    pub(super) odd: Option<(u8, Word)>,
    #[arbitrary(with = seldom)]
    pub(super) file: Option<Descriptor>,
}

impl Region {
    /// Guest address, length, the front end's own address, offset in the file.
    pub(super) fn words(&self) -> [u64; 4] {
        let mut words = match self.island {
            false => [BASE, LEN, super::USER, 0],
            true => [ISLAND, ISLAND_LEN, user(ISLAND), LEN],
        };
        if let Some((which, word)) = self.odd {
            words[usize::from(which % 4)] = word.value();
        }
        words
    }
}

/// A descriptor to send with a message.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub(super) enum Descriptor {
    Event(u8),
    None,
    Ram,
    /// Another file that can be mapped.
    File,
    Socket,
}
