//! Where a guest's address leads, by its own page table: Bare, Sv39, Sv48 and Sv57 with
//! 16-bit-contiguous pages (privileged architecture, "Virtual Address Translation Process";
//! Svnapot).

use std::io;
use std::sync::atomic::Ordering;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::{Hart, Register, sstatus};

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Bits of a virtual page number that choose an entry of one table.
const INDEX_BITS: u32 = 9;
/// Bytes of a page-table entry.
const ENTRY: u64 = 8;
/// Bits of a physical page number, in `satp` and in an entry.
const PPN: u64 = (1 << 44) - 1;

/// Bits of a page-table entry.
mod pte {
    pub(super) const VALID: u64 = 1 << 0;
    pub(super) const READ: u64 = 1 << 1;
    pub(super) const WRITE: u64 = 1 << 2;
    pub(super) const EXECUTE: u64 = 1 << 3;
    pub(super) const USER: u64 = 1 << 4;
    /// Svnapot: sixteen pages together.
    pub(super) const NAPOT: u64 = 1 << 63;
}

/// What an address is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// A load.
    Load,
    /// A store or an AMO.
    Store,
    /// An instruction fetch.
    Fetch,
}

/// Why an address leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The page table does not map it for this use: a page fault.
    Page,
    /// A page table lies where no memory is: an access fault.
    Table,
}

/// What decides where a hart's addresses lead.
#[derive(Clone, Copy, Debug)]
pub struct Paging {
    satp: u64,
    status: u64,
    user: bool,
}

impl Paging {
    /// As `hart` stands.
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

    /// The guest physical address that `address` leads to. At most five loads from `memory`, each
    /// of a word once. The accessed and dirty bits are not looked at: this asks where an access
    /// goes that the hart's own walk has let through.
    ///
    /// # Errors
    /// It leads nowhere.
    pub fn walk(&self, memory: &GuestMemoryMmap, address: u64, what: Use) -> Result<u64, Refused> {
        let levels = match self.satp >> 60 {
            0 => return Ok(address),
            8 => 3,
            9 => 4,
            10 => 5,
            _ => return Err(Refused::Page),
        };
        // The upper bits repeat the highest bit that is translated.
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

    /// The address by a leaf entry, which maps 2^`shift` bytes.
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
            // 64 KiB: the number's low four bits say so, and are the address's.
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

/// Whether a byte of RAM is at guest physical address `address`.
pub fn is_memory(memory: &GuestMemoryMmap, address: u64) -> bool {
    memory.address_in_range(GuestAddress(address))
}

#[cfg(test)]
#[path = "paging_test.rs"]
mod tests;
