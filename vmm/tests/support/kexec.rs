//! Starts another kernel in place of the running one: `kexec IMAGE INITRD`, a flat Image and an
//! initrd that is not larger than the first. A test runs it in a Linux guest on RISC-V, so that
//! kexec-tools are not needed there.
#![allow(unsafe_code)]

use std::fs;
use std::io;

/// Address of both kernels: RAM + 2 MiB.
const KERNEL: usize = 0x8020_0000;
/// Address of the device tree: after the kernel, before the initrd.
const TREE: usize = 0x8800_0000;
const PAGE: usize = 4096;

/// struct kexec_segment (linux/kexec.h).
#[repr(C)]
struct Segment {
    bytes: *const u8,
    len: usize,
    address: usize,
    memory: usize,
}

/// A segment with `bytes` at guest physical address `address`, of `memory` bytes.
fn segment(bytes: &[u8], address: usize, memory: usize) -> Segment {
    Segment {
        bytes: bytes.as_ptr(),
        len: bytes.len(),
        address,
        memory: memory.max(bytes.len()).next_multiple_of(PAGE),
    }
}

/// Reads an integer property of the device tree, of any size.
fn number(path: &str) -> io::Result<usize> {
    let bytes = fs::read(path)?;
    let byte = |sum, byte: &u8| sum << 8 | usize::from(*byte);
    Ok(bytes.iter().fold(0, byte))
}

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut file = || fs::read(arguments.next().unwrap_or_default());
    let (image, initrd) = (file()?, file()?);
    // The second initrd goes where the first one was, which its device tree says.
    let tree = fs::read("/sys/firmware/fdt")?;
    let start = number("/proc/device-tree/chosen/linux,initrd-start")?;
    // image_size in the header, which includes BSS.
    let size = image.get(16..24).and_then(|size| size.try_into().ok());
    let size = usize::from_le_bytes(size.unwrap_or_default());
    let segments = [
        segment(&image, KERNEL, size),
        segment(&tree, TREE, 0),
        segment(&initrd, start, 0),
    ];
    let (count, none) = (segments.len(), 0_usize);
    // SAFETY: the segments and their bytes outlive the call, which copies them.
    let loaded =
        unsafe { libc::syscall(libc::SYS_kexec_load, KERNEL, count, segments.as_ptr(), none) };
    if loaded == 0 {
        // SAFETY: no memory is passed.
        unsafe { libc::reboot(libc::LINUX_REBOOT_CMD_KEXEC) };
    }
    Err(io::Error::last_os_error())
}
