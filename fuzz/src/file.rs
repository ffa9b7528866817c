//! Files in memory.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::LazyLock;

use nix::sys::memfd::{MFdFlags, memfd_create};

static SCRATCH: LazyLock<File> = LazyLock::new(|| new_file(&[]));

/// A file in memory that holds `content`.
pub fn new_file(content: &[u8]) -> File {
    use std::os::unix::fs::FileExt;
    let file = memfd_create(c"fuzz", MFdFlags::MFD_CLOEXEC).expect("a memfd");
    let file = File::from(file);
    file.write_all_at(content, 0).expect("memory");
    file
}

/// A file in memory whose content does not matter.
pub fn memory_file() -> File {
    SCRATCH.try_clone().expect("a descriptor")
}

/// A path to it, while it is open.
pub fn path(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}
