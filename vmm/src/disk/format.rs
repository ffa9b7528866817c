//! Images that are not raw.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// How the formats begin that a user may take for a disk.
const BEGINNINGS: [(&str, &[u8]); 3] = [
    ("qcow2", b"QFI\xfb"),
    ("vmdk", b"KDMV"),
    ("vhdx", b"vhdxfile"),
];

/// The format of `file`, in the words of `qemu-img`, if it is not a raw disk's.
///
/// A raw disk may come to begin so, since its guest writes what it likes. That the content alone never decides is what
/// keeps such a guest from having its bytes read as an image that refers to other files of the host.
pub(super) fn of(file: &File) -> Option<&'static str> {
    let mut beginning = [0; 8];
    // What is shorter, or cannot be read, is told by others.
    file.read_exact_at(&mut beginning, 0).ok()?;
    let is = |(_, magic): &&(&str, &[u8])| beginning.starts_with(magic);
    BEGINNINGS.iter().find(is).map(|(name, _)| *name)
}
