//! Translates guest virtual addresses with the guest's own page table: Bare, Sv39, Sv48 and Sv57,
//! with Svnapot's 64 KiB pages (privileged architecture, "Virtual Address Translation Process").

use std::io;
use std::sync::atomic::Ordering;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::{Hart, Register, sstatus};

/// Bytes per page.
pub const PAGE: u64 = 4096;
/// Bits of a virtual page number that index one table.
const INDEX_BITS: u32 = 9;
/// Bytes per page-table entry.
const ENTRY: u64 = 8;
/// Mask of a physical page number in `satp`, and in an entry shifted right by 10.
const PPN: u64 = (1 << 44) - 1;

/// Bits of a page-table entry.
mod pte {
    pub(super) const VALID: u64 = 1 << 0;
    pub(super) const READ: u64 = 1 << 1;
    pub(super) const WRITE: u64 = 1 << 2;
    pub(super) const EXECUTE: u64 = 1 << 3;
    pub(super) const USER: u64 = 1 << 4;
    /// Svnapot: one of 16 contiguous pages.
    pub(super) const NAPOT: u64 = 1 << 63;
}

/// The kind of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// A load.
    Load,
    /// A store or an AMO.
    Store,
    /// An instruction fetch.
    Fetch,
}

/// Why a translation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The page table does not permit this access: a page fault.
    Page,
    /// A page table lies outside RAM: an access fault.
    Table,
}

/// The state that controls a hart's address translation.
#[derive(Clone, Copy, Debug)]
pub struct Paging {
    satp: u64,
    status: u64,
    user: bool,
}

impl Paging {
    /// Reads the current state of `hart`.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn of(hart: &dyn Hart) -> io::Result<Paging> {
        Ok(Paging {
            satp: hart.get(Register::Satp)?,
            status: hart.get(Register::Sstatus)?,
            user: hart.get(Register::Mode)? == 0,
        })
    }

    /// Translates `address` to a guest physical address. Loads at most five words from `memory`,
    /// each once. The accessed and dirty bits are ignored: the hart's own walk has already
    /// permitted the access.
    ///
    /// # Errors
    /// The address has no translation.
    pub fn walk(&self, memory: &GuestMemoryMmap, address: u64, what: Use) -> Result<u64, Refused> {
        let levels = match self.satp >> 60 {
            0 => return Ok(address),
            8 => 3,
            9 => 4,
            10 => 5,
            _ => return Err(Refused::Page),
        };
        // The upper bits must repeat the highest translated bit.
        let unused = 64 - 12 - INDEX_BITS * levels;
        if (address.cast_signed() << unused >> unused).cast_unsigned() != address {
            return Err(Refused::Page);
        }
        let mut table = (self.satp & PPN) * PAGE;
        for level in (0..levels).rev() {
            let shift = 12 + INDEX_BITS * level;
            let index = address >> shift & ((1 << INDEX_BITS) - 1);
            let entry: u64 = memory
                .load(GuestAddress(table + index * ENTRY), Ordering::Acquire)
                .map_err(|_| Refused::Table)?;
            let page = entry >> 10 & PPN;
            if entry & pte::VALID == 0 || entry & (pte::READ | pte::WRITE) == pte::WRITE {
                return Err(Refused::Page);
            }
            if entry & (pte::READ | pte::EXECUTE) == 0 {
                table = page * PAGE;
                continue;
            }
            return self.leaf(entry, page, address, what, shift);
        }
        Err(Refused::Page)
    }

    /// Translates by a leaf entry, which maps 2^`shift` bytes.
    fn leaf(
        &self,
        entry: u64,
        mut page: u64,
        address: u64,
        what: Use,
        shift: u32,
    ) -> Result<u64, Refused> {
        let user = entry & pte::USER != 0;
        let reachable = match (self.user, what) {
            (true, _) => user,
            (false, Use::Fetch) => !user,
            (false, _) => !user || self.status & sstatus::SUM != 0,
        };
        let executable_is_readable = self.status & sstatus::MXR != 0;
        let allowed = match what {
            Use::Fetch => entry & pte::EXECUTE != 0,
            Use::Store => entry & pte::WRITE != 0,
            Use::Load => {
                entry & pte::READ != 0 || executable_is_readable && entry & pte::EXECUTE != 0
            }
        };
        if entry & pte::NAPOT != 0 && shift == 12 {
            // 64 KiB: the low four bits of the page number encode the size. Take the address's bits
            // instead.
            page = page & !15 | address >> 12 & 15;
        }
        let offset = address & ((1 << shift) - 1);
        let start = page * PAGE;
        let aligned = start & ((1 << shift) - 1) == 0;
        match reachable && allowed && aligned {
            true => Ok(start | offset),
            false => Err(Refused::Page),
        }
    }
}

/// Whether guest physical address `address` is RAM.
pub fn is_memory(memory: &GuestMemoryMmap, address: u64) -> bool {
    memory.address_in_range(GuestAddress(address))
}

#[cfg(test)]
#[path = "paging_test.rs"]
mod tests;
