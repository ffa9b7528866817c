//! What this host gives to a guest or keeps for a run: files, disks, sockets, the terminal.
//!
//! ```text
//!   disk ──── files      a disk's format, size, lock, other users
//!   cloud_init           a disk made of files
//!   port ──── socket     back ends of consoles and ports
//!   net ──┬── helper     tap interfaces of network cards, and passt
//!   share ─┤             directories of the host, and virtiofsd
//!   remote ┘             devices that other processes serve
//!   vsock ─── socket     the socket of the socket device
//!   balloon              the file with a memory balloon's size
//!   firmware             where the firmware of guests without a kernel is installed
//!   buffer               bytes in transit
//!   terminal             stdin and stdout, raw mode, Ctrl-a
//!   slice                the scheduler: threads that run at once
//!   hugepages            how many are free
//!   pidfile
//! ```

pub(crate) mod balloon;
pub(crate) mod buffer;
pub(crate) mod cloud_init;
pub mod disk;
pub(crate) mod files;
pub(crate) mod firmware;
pub(crate) mod helper;
pub(crate) mod hugepages;
pub mod net;
pub mod pidfile;
pub mod port;
pub mod remote;
pub mod share;
pub(crate) mod slice;
pub(crate) mod socket;
pub mod terminal;
pub mod vsock;
