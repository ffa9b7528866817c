//! The incoming MSI controller (RISC-V AIA 1.0 chapter 3): the S-level interrupt file of this
//! hart, reached by its indirect CSRs.

/// Access to an interrupt file: on bare metal the CSRs, in a test an array.
pub trait InterruptFile {
    /// Reads the register `select` (siselect, sireg).
    fn read(&self, select: usize) -> u64;
    /// Writes the register `select`.
    fn write(&self, select: usize, value: u64);
    /// Claims the top interrupt and gives stopei (CSR 0x15c): identity in bits 26:16, or 0.
    fn claim_top(&self) -> u64;
}

/// eidelivery, eithreshold, and the first of the pending and enable registers (§3.8).
const EIDELIVERY: usize = 0x70;
const EITHRESHOLD: usize = 0x72;
const EIP0: usize = 0x80;
const EIE0: usize = 0xc0;
/// Bits of stopei that hold the identity, from [`IDENTITY_SHIFT`] up.
const IDENTITY_MASK: u64 = 0x7ff;
const IDENTITY_SHIFT: u32 = 16;

/// The interrupt file of this hart.
#[derive(Debug)]
pub struct Imsic<F> {
    file: F,
    identities: u32,
}

impl<F: InterruptFile> Imsic<F> {
    /// A file with the identities 1 to `identities` (`riscv,num-ids`).
    pub fn new(file: F, identities: u32) -> Self {
        Self { file, identities: identities.min(2047) }
    }

    /// The highest identity.
    pub fn identities(&self) -> u32 {
        self.identities
    }

    /// Every identity off, then delivery on.
    pub fn start(&self) {
        self.file.write(EIDELIVERY, 0);
        for first in (0..=self.identities).step_by(64) {
            self.file.write(EIE0 + register(first), 0);
        }
        self.file.write(EITHRESHOLD, 0);
        self.file.write(EIDELIVERY, 1);
    }

    /// Enables `identity`.
    pub fn enable(&self, identity: u32) {
        if !self.exists(identity) {
            return;
        }
        let select = EIE0 + register(identity);
        self.file
            .write(select, self.file.read(select) | bit(identity));
    }

    /// Disables `identity`.
    pub fn disable(&self, identity: u32) {
        if !self.exists(identity) {
            return;
        }
        let select = EIE0 + register(identity);
        self.file
            .write(select, self.file.read(select) & !bit(identity));
    }

    /// Claims the most urgent pending identity.
    pub fn claim(&self) -> Option<u32> {
        let identity = self.file.claim_top() >> IDENTITY_SHIFT & IDENTITY_MASK;
        u32::try_from(identity)
            .ok()
            .filter(|identity| *identity != 0)
    }

    /// Whether `identity` is pending.
    pub fn pending(&self, identity: u32) -> bool {
        self.exists(identity) && self.file.read(EIP0 + register(identity)) & bit(identity) != 0
    }

    /// The registers of other identities may not exist; an access then traps.
    fn exists(&self, identity: u32) -> bool {
        (1..=self.identities).contains(&identity)
    }
}

/// With 64-bit CSRs a register holds 64 identities, and only those with even numbers exist
/// (§3.8.3).
fn register(identity: u32) -> usize {
    identity as usize / 64 * 2
}

fn bit(identity: u32) -> u64 {
    1 << (identity % 64)
}

#[cfg(test)]
#[path = "imsic_test.rs"]
mod tests;
