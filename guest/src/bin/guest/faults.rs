//! Mode `faults`: executes instructions that a hart traps at, or that reach a device in an unusual
//! way, and prints one line per case: `fault: SPACE CASE: done VALUE`, or
//! `fault: SPACE CASE: cause N at ADDRESS, value ADDRESS, spp N, spie N, sie N`. Addresses are
//! relative to the code, or to the accessed address.

use core::fmt;

use guest::boot::Outcome;
use guest::fault::{self, Space, UNTABLED};
use guest::fdt::{Board, Controller};
use guest::println;

/// The target of a case, whose address is in a0.
#[derive(Clone, Copy)]
enum At {
    /// This far beyond a register of 4 bytes: the priority of an interrupt source without a device.
    Device(u64),
    /// The scratch register of the serial port, a byte.
    Serial,
    /// This far beyond the register that selects device features, of the first virtio device.
    Virtio(u64),
    /// Beyond the end of RAM.
    Beyond,
    /// This far before the end of RAM.
    Before(u64),
    /// This address.
    Fixed(u64),
}

/// The priority of a PLIC source is at 4 times its number; this source has no device.
const IDLE_SOURCE: u64 = 60;
/// The scratch register of a 16550.
const SCRATCH: u64 = 7;
/// DeviceFeaturesSel.
const FEATURES_SEL: u64 = 0x14;
/// No device and no memory, also under QEMU.
const HOLE: u64 = 0x1800_0000;
/// The stored value.
const VALUE: u64 = 3;

const JUMP: &[u32] = &[0x0005_0067]; // jr a0
const FMV_W_X: u32 = 0xf005_8553; // fmv.w.x fa0, a1
const FMV_X_D: u32 = 0xe205_0553; // fmv.x.d a0, fa0
const VSETIVLI: u32 = 0xcd02_7057; // vsetivli zero, 4, e32, m1, ta, ma

/// Name, code, address.
type Case = (&'static str, &'static [u32], At);

/// In the order of execution. The instructions after a load return its value.
const CASES: &[Case] = &[
    ("nop", &[0x13], At::Fixed(0)),
    ("jump beyond RAM", JUMP, At::Beyond),
    ("jump to a hole", JUMP, At::Fixed(HOLE)),
    ("jump to a device", JUMP, At::Device(0)),
    ("jump to null", JUMP, At::Fixed(0)),
    ("jump far beyond", JUMP, At::Fixed(0x30_0000_0000)),
    ("jump over the end", JUMP, At::Before(2)),
    ("lh misaligned", &[0x0005_1503], At::Device(1)),
    ("lw misaligned", &[0x0005_2503], At::Device(1)),
    ("lw half misaligned", &[0x0005_2503], At::Device(2)),
    ("ld misaligned", &[0x0005_3503], At::Device(4)),
    ("sh misaligned", &[0x00b5_1023], At::Device(1)),
    ("sw misaligned", &[0x00b5_2023], At::Device(1)),
    ("sd misaligned", &[0x00b5_3023], At::Device(4)),
    ("sw, lw", &[0x00b5_2023, 0x0005_2503], At::Device(0)),
    (
        "fsw, flw",
        &[FMV_W_X, 0x00a5_2027, 0x0005_2507, FMV_X_D],
        At::Device(0),
    ),
    ("fsw misaligned", &[0x00a5_2027], At::Device(1)),
    ("c.sb, c.lbu, c.mv", &[0x0001_890c, 0x852e_810c], At::Serial),
    ("amoadd.w", &[0x00b5_252f], At::Device(0)),
    ("amoswap.w", &[0x08b5_252f], At::Device(0)),
    ("lr.w", &[0x1005_252f], At::Device(0)),
    ("lr.d misaligned", &[0x1005_352f], At::Device(4)),
    ("sc.w", &[0x18b5_252f, 0x0000_0513], At::Device(0)),
    ("cbo.zero", &[0x0045_200f], At::Device(0)),
    ("vle32", &[VSETIVLI, 0x0205_6407], At::Device(0)),
    (
        "vle32 over the end",
        &[VSETIVLI, 0x0205_6407],
        At::Before(8),
    ),
    ("vse32 beyond RAM", &[VSETIVLI, 0x0205_6427], At::Beyond),
    ("ld over the end", &[0x0005_3503], At::Before(4)),
    ("sd over the end", &[0x00b5_3023], At::Before(4)),
    ("lw over the end", &[0x0005_2503], At::Before(2)),
    ("fld over the end", &[0x0005_3507], At::Before(4)),
    ("lw beyond RAM", &[0x0005_2503], At::Beyond),
    ("sw beyond RAM", &[0x00b5_2023], At::Beyond),
    ("fld beyond RAM", &[0x0005_3507], At::Beyond),
    ("c.fld beyond RAM", &[0x0001_2108], At::Beyond),
    ("amoadd.w beyond RAM", &[0x00b5_252f], At::Beyond),
    ("lr.w beyond RAM", &[0x1005_252f], At::Beyond),
    ("lw from a hole", &[0x0005_2503], At::Fixed(HOLE)),
    ("sw to virtio", &[0x00b5_2023, 0x0000_0513], At::Virtio(0)),
    (
        "fsw to virtio",
        &[FMV_W_X, 0x00a5_2027, 0x0000_0513],
        At::Virtio(0),
    ),
    ("sw to virtio misaligned", &[0x00b5_2023], At::Virtio(1)),
    ("amoadd.w to virtio", &[0x00b5_252f], At::Virtio(0)),
];

/// Cases only with paging.
const PAGED: &[Case] = &[
    (
        "lw by a table beyond RAM",
        &[0x0005_2503],
        At::Fixed(UNTABLED),
    ),
    (
        "sw by a table beyond RAM",
        &[0x00b5_2023],
        At::Fixed(UNTABLED),
    ),
    ("jump by a table beyond RAM", JUMP, At::Fixed(UNTABLED)),
];

/// `csrw satp, zero`: the next instruction is fetched from a virtual address as if it were
/// physical. Linux's kexec does that.
const PAGING_OFF: &[Case] = &[("paging off", &[0x1800_1073], At::Fixed(0))];

/// Runs all cases on the machine of these boot arguments.
pub(crate) fn run(board: &Board<'_>, uart: Option<u64>) -> Outcome {
    let (start, len) = board.memory;
    let end = start + len;
    let Some(Controller::Plic { base, .. }) = board.controller else {
        println!("guest: faults needs a PLIC");
        return Outcome::Failed;
    };
    let (Some(uart), Some(slot)) = (uart, board.slots().next()) else {
        println!("guest: faults needs a serial port and a virtio device");
        return Outcome::Failed;
    };
    fault::prepare(end);
    let physical = |at| match at {
        At::Device(offset) => base + 4 * IDLE_SOURCE + offset,
        At::Serial => uart + SCRATCH,
        At::Virtio(offset) => slot.base + FEATURES_SEL + offset,
        At::Beyond => end + 4096,
        At::Before(bytes) => end - bytes,
        At::Fixed(address) => address,
    };
    let spaces: [(Space, &[&[Case]]); 4] = [
        (Space::Bare, &[CASES]),
        (Space::Paged, &[CASES, PAGED]),
        (Space::User, &[CASES]),
        (Space::Upper, &[PAGING_OFF]),
    ];
    for (space, cases) in spaces {
        for &(name, code, at) in cases.iter().copied().flatten() {
            let address = space.address(physical(at));
            let taken = fault::run(space, code, address, VALUE);
            if taken.is_done() {
                println!("fault: {space:?} {name}: done {:x}", taken.a0);
                continue;
            }
            let show = |value| Relative { value, address, code: fault::place(space) };
            let [spp, spie, sie] = taken.bits().map(u8::from);
            println!(
                "fault: {space:?} {name}: cause {} at {}, value {}, spp {spp}, spie {spie}, sie {sie}",
                taken.cause,
                show(taken.at),
                show(taken.value),
            );
        }
    }
    Outcome::Passed
}

/// An address relative to the accessed one, or to the code.
struct Relative {
    value: u64,
    address: u64,
    code: u64,
}

impl fmt::Display for Relative {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let near = |from: u64| Some(self.value.wrapping_sub(from)).filter(|it| *it < 32);
        match (near(self.address), near(self.code)) {
            (Some(offset), _) => write!(f, "address+{offset}"),
            (_, Some(offset)) => write!(f, "code+{offset}"),
            _ => write!(f, "{:x}", self.value),
        }
    }
}
