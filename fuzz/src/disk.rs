//! A file in memory, for a disk.

use std::fs::File;
use std::sync::LazyLock;

use nix::sys::memfd::{MFdFlags, memfd_create};

static SCRATCH: LazyLock<File> = LazyLock::new(|| new_file(&[]));

/// An empty file in memory that holds `content`.
pub fn new_file(content: &[u8]) -> File {
    use std::os::unix::fs::FileExt;
    let file = memfd_create(c"fuzz", MFdFlags::MFD_CLOEXEC).expect("a memfd");
    let file = File::from(file);
    file.write_all_at(content, 0).expect("memory");
    file
}

/// A file in memory whose content is nobody's business.
pub fn memory_file() -> File {
    SCRATCH.try_clone().expect("a descriptor")
}
