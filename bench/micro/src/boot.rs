//! The work of a start before the first vCPU runs: loading the kernel, building the device tree.

use std::hint::black_box;
use std::io::Write;

use vm_memory::GuestMemoryMmap;
use vmm::cli::{self, Command, Parsed};
use vmm::fdt::{self, Board, Hart, Irqchip};
use vmm::loader::{self, Kernel};
use vmm::machine::Machine;

use crate::Case;
use crate::ring::RAM;

/// Size of the kernel in bytes.
const IMAGE: usize = 8 << 20;
/// Size of the guest's RAM in bytes.
const MEMORY: u64 = 64 << 20;

pub(crate) fn cases() -> Vec<Case> {
    let mut file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    file.write_all(&image()).unwrap();
    let path = file.path().to_str().unwrap();
    let words = ["hartvisor", "run", "--kernel", path, "--memory", "64M"].map(Into::into);
    let Parsed::Command(Command::Run(options)) = cli::parse(words).unwrap() else {
        return Vec::new();
    };
    let config = vmm::config::Run::from(*options);
    let Some(kernel) = config.machine.kernel.clone() else {
        return Vec::new();
    };
    let machine = Machine::new(config.machine, None).unwrap();
    let ram = GuestMemoryMmap::from_ranges(&[(RAM, usize::try_from(MEMORY).unwrap())]).unwrap();
    let case = |name: &str, run| Case { name: name.to_owned(), times: 1, run };
    vec![
        case(
            "loader, an Image recognised, checked and placed",
            Box::new(move || {
                // Keep the file alive as long as this closure.
                black_box(&file);
                let kernel = Kernel::open(&kernel, MEMORY).unwrap();
                black_box(loader::place(&kernel, None, MEMORY).unwrap());
            }),
        ),
        case(
            "loader, an Image of 8 MiB into guest memory",
            Box::new(move || {
                loader::load(&machine.kernel, None, &machine.placement, &ram).unwrap();
            }),
        ),
        case("device tree, 1 hart", tree(1)),
        case("device tree, 8 harts", tree(8)),
    ]
}

/// A flat Image: a header (Linux Documentation/arch/riscv/boot-image-header.rst) and zeroes.
fn image() -> Vec<u8> {
    let mut header = vec![0; IMAGE];
    let words: [(usize, u64); 4] = [
        // text_offset, image_size, version 0.2, the magic numbers
        (8, 0x20_0000),
        (16, IMAGE as u64),
        (32, 2),
        (48, 0x56_4353_4952),
    ];
    for (offset, word) in words {
        let bytes = header.get_mut(offset..offset + 8).unwrap();
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    header.get_mut(56..60).unwrap().copy_from_slice(b"RSC\x05");
    header
}

fn tree(harts: usize) -> Box<dyn FnMut()> {
    let extensions = [
        "i", "m", "a", "f", "d", "c", "zicsr", "zifencei", "zba", "zbb", "zbs", "sstc",
    ];
    let hart = Hart {
        isa: "rv64imafdc_zicsr_zifencei_zba_zbb_zbs_sstc".to_owned(),
        extensions: extensions.map(str::to_owned).into(),
        mmu_type: "riscv,sv57".to_owned(),
        cbom_block: Some(64),
        cboz_block: Some(64),
    };
    let harts = vec![hart; harts];
    Box::new(move || {
        let board = Board {
            cmdline: "console=hvc0",
            memory: MEMORY,
            harts: &harts,
            timebase: 10_000_000,
            initrd: None,
            virtio_slots: 3,
            seed: [7; 32],
            irqchip: Irqchip::Aia,
        };
        black_box(fdt::build(&board).unwrap());
    })
}
