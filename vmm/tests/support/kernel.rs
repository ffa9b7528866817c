//! Kernel files built by hand for tests. They need no toolchain, and any field can be invalid.

/// One program header and its bytes in the file.
#[derive(Clone)]
pub struct Segment {
    pub kind: u32,
    pub flags: u32,
    pub vaddr: u64,
    pub paddr: u64,
    pub data: Vec<u8>,
    /// Size in the file, if it differs from the length of `data`.
    pub file_size: Option<u64>,
    pub memory_size: u64,
    pub align: u64,
}

impl Segment {
    /// A PT_LOAD segment, readable, writable and executable, with equal virtual and physical
    /// addresses.
    pub fn load(address: u64, data: &[u8], memory_size: u64) -> Self {
        let (kind, flags, align) = (1, 7, 4096);
        Segment {
            kind,
            flags,
            vaddr: address,
            paddr: address,
            data: data.into(),
            file_size: None,
            memory_size,
            align,
        }
    }
}

/// An ELF file under construction.
#[derive(Clone)]
pub struct Elf {
    pub class: u8,
    pub machine: u16,
    pub kind: u16,
    pub entry: u64,
    pub segments: Vec<Segment>,
}

impl Elf {
    /// A RISC-V executable with `code` at `address`.
    pub fn new(address: u64, code: &[u8]) -> Self {
        let segments = vec![Segment::load(address, code, code.len() as u64)];
        Elf { class: 2, machine: 243, kind: 2, entry: address, segments }
    }

    /// Returns the bytes of the file: header, program headers, then each segment's data.
    pub fn bytes(&self) -> Vec<u8> {
        let mut file = b"\x7fELF".to_vec();
        file.extend([self.class, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        file.extend(self.kind.to_le_bytes());
        file.extend(self.machine.to_le_bytes());
        file.extend(1u32.to_le_bytes());
        for word in [self.entry, 64, 0] {
            file.extend(word.to_le_bytes());
        }
        file.extend(0u32.to_le_bytes());
        for half in [64, 56, self.segments.len() as u16, 64, 0, 0] {
            file.extend(half.to_le_bytes());
        }
        let mut offset = 64 + 56 * self.segments.len() as u64;
        for segment in &self.segments {
            let length = segment.data.len() as u64;
            file.extend(segment.kind.to_le_bytes());
            file.extend(segment.flags.to_le_bytes());
            let size = segment.file_size.unwrap_or(length);
            for word in [
                offset,
                segment.vaddr,
                segment.paddr,
                size,
                segment.memory_size,
                segment.align,
            ] {
                file.extend(word.to_le_bytes());
            }
            offset += length;
        }
        for segment in &self.segments {
            file.extend(&segment.data);
        }
        file
    }
}

/// A flat Image: a header of version 0.2, `length` bytes in total.
pub fn image(text_offset: u64, image_size: u64, length: usize) -> Vec<u8> {
    let mut file = vec![0; 8];
    for word in [text_offset, image_size, 0, 2, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(b"RISCV\0\0\0RSC\x05\0\0\0\0");
    assert_eq!(file.len(), 64);
    file.resize(length, 0x5a);
    file
}

/// RISC-V code that shuts down through SBI SRST with a reason: 0 none, 1 system failure.
pub fn shutdown(reason: u8) -> Vec<u8> {
    srst(0, reason)
}

/// RISC-V code that requests a cold reboot through SBI SRST.
pub fn reboot() -> Vec<u8> {
    srst(1, 0)
}

fn srst(kind: u8, reason: u8) -> Vec<u8> {
    code(&[
        0x5352_58b7,                           // lui  a7, 0x53525
        0x3548_8893,                           // addi a7, a7, 0x354, together "SRST"
        0x0000_0813,                           // li   a6, 0
        0x0000_0513 | u32::from(kind) << 20,   // li   a0, kind
        0x0000_0593 | u32::from(reason) << 20, // li   a1, reason
        0x0000_0073,                           // ecall
        0x0000_006f,                           // j    .
    ])
}

/// RISC-V code that stores a failure to QEMU's test finisher.
pub fn fail_by_finisher() -> Vec<u8> {
    code(&[
        0x0010_0537, // lui  a0, 0x100
        0x0001_35b7, // lui  a1, 0x13
        0x3335_8593, // addi a1, a1, 0x333
        0x00b5_2023, // sw   a1, 0(a0)
        0x0000_006f, // j    .
    ])
}

/// RISC-V code that sends a byte through the serial port and continues after its end.
pub fn putchar(byte: u8) -> Vec<u8> {
    code(&[
        0x1000_0537,                         // lui  a0, 0x10000
        0x0000_0593 | u32::from(byte) << 20, // li   a1, byte
        0x00b5_0023,                         // sb   a1, 0(a0)
    ])
}

/// RISC-V code that stores `events` to the pvpanic register and continues after its end.
pub fn panic(events: u8) -> Vec<u8> {
    code(&[
        0x0010_2537,                           // lui  a0, 0x102
        0x0000_0593 | u32::from(events) << 20, // li   a1, events
        0x00b5_0023,                           // sb   a1, 0(a0)
    ])
}

/// RISC-V code that stores `value` to the test finisher.
pub fn finish(value: u32) -> Vec<u8> {
    let (upper, lower) = (value.wrapping_add(0x800) >> 12, value & 0xfff);
    code(&[
        0x0010_0537,                 // lui  a0, 0x100
        0x0000_05b7 | (upper << 12), // lui  a1, upper
        0x0005_8593 | (lower << 20), // addi a1, a1, lower
        0x00b5_2023,                 // sw   a1, 0(a0)
        0x0000_006f,                 // j    .
    ])
}

/// RISC-V code that reads the `seed` CSR (Zkr). It powers off if it gets 16 bits of entropy, else
/// it reports a failure.
pub fn seed() -> Vec<u8> {
    let mut bytes = code(&[
        0x0150_1573, // csrrw a0, seed, zero
        0x01e5_5513, // srli  a0, a0, 30: OPST
        0x0020_0293, // li    t0, 2: ES16
        0x0055_0463, // beq   a0, t0, to the power-off
        0x0200_006f, // j     to the failure
    ]);
    bytes.extend(srst(0, 0));
    bytes.extend(srst(0, 1));
    bytes
}

/// RISC-V code that jumps to an address without RAM. Its trap vector powers off with reason 0, or
/// is at such an address, too.
pub fn jump(to_vector: bool) -> Vec<u8> {
    let mut bytes = code(&[
        0x0000_0297,                                       // auipc t0, 0
        if to_vector { 0x0182_8293 } else { 0x0000_0013 }, // addi  t0, t0, 24: the vector; or nop
        0x0050_0313,                                       // li    t1, 5
        0x01d3_1313,                                       // slli  t1, t1, 29: 0xa0000000
        if to_vector { 0x1052_9073 } else { 0x1053_1073 }, // csrw  stvec, t0; or t1
        0x0003_0067,                                       // jr    t1
    ]);
    bytes.extend(shutdown(0));
    bytes
}

/// RISC-V code that waits forever.
pub fn wait() -> Vec<u8> {
    // wfi, and a jump back to it
    code(&[0x1050_0073, 0xffdf_f06f])
}

fn code(instructions: &[u32]) -> Vec<u8> {
    instructions
        .iter()
        .flat_map(|instruction| instruction.to_le_bytes())
        .collect()
}
