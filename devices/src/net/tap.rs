//! A Linux tap interface as a back end: the kernel's side of a virtual network cable.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::fs::{File, OpenOptions};
use std::io;
use std::mem::zeroed;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::RecvFlags;

use super::{BackEnd, HEADER, feature};
use crate::memory::{Readable, Writable};
use crate::virtio::Ready;

/// What opens an interface.
pub const DEVICE: &str = "/dev/net/tun";

/// The index of `news` in [`BackEnd::files`].
const NEWS: usize = 2;

/// The longest name of an interface, in bytes.
pub const NAME_MAX: usize = libc::IFNAMSIZ - 1;

/// Offloads of the tap interface, each with the features of both directions that it provides.
const OFFLOADS: [(libc::c_uint, u64); 3] = [
    (libc::TUN_F_CSUM, feature::GUEST_CSUM | feature::CSUM),
    (libc::TUN_F_TSO4, feature::GUEST_TSO4 | feature::HOST_TSO4),
    (libc::TUN_F_TSO6, feature::GUEST_TSO6 | feature::HOST_TSO6),
];

/// Why a descriptor is not a tap interface that can be used.
#[derive(Debug, thiserror::Error)]
pub enum NotTap {
    /// It is something else.
    #[error("it is not a tap interface")]
    Other(#[source] io::Error),
    /// It carries IP packets, not Ethernet frames.
    #[error("it is a tun interface, which has no Ethernet frames")]
    Tun,
    /// Its frames have no header.
    #[error(
        "it was opened without IFF_VNET_HDR or with packet information: expected the flags IFF_TAP, IFF_NO_PI and IFF_VNET_HDR"
    )]
    Flags,
}

/// A tap interface, with its frames' headers.
#[derive(Debug)]
pub struct Tap {
    file: File,
    /// A duplicate: an epoll set has each descriptor once.
    writer: OwnedFd,
    /// Tells changes of the host's interfaces, if this one is among them.
    news: Option<OwnedFd>,
    name: String,
    offloads: u64,
}

impl Tap {
    /// Attaches to the existing interface `name`.
    ///
    /// # Errors
    /// Of open(2) for [`DEVICE`], or of TUNSETIFF: EPERM if it belongs to another user, EBUSY if
    /// another program has it, EINVAL if it is not a tap interface.
    pub fn open(name: &str) -> io::Result<Tap> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(DEVICE)?;
        let mut request = request(name)?;
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        // The flags are 16 bits in the kernel's interface.
        #[expect(clippy::cast_possible_truncation, reason = "they are below 2^16")]
        let flags = flags as libc::c_short;
        request.ifr_ifru.ifru_flags = flags;
        // SAFETY: TUNSETIFF reads and writes an ifreq, which `request` is.
        check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) })?;
        Ok(Tap { news: Some(news()?), ..Tap::prepare(file, &request)? })
    }

    /// Takes a duplicate of descriptor `number`, of an interface that another program has opened. It
    /// is made non-blocking.
    ///
    /// # Errors
    /// It is not open, not a tap interface, or has other flags.
    pub fn from_number(number: RawFd) -> Result<Tap, NotTap> {
        // SAFETY: F_DUPFD_CLOEXEC takes any number, and fails if it is not open.
        let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
        check(copy).map_err(NotTap::Other)?;
        // SAFETY: the descriptor is new, and nothing else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(copy) };
        let request = request_of(&fd).map_err(NotTap::Other)?;
        // SAFETY: TUNGETIFF has set the flags.
        let flags = libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags });
        if flags & libc::IFF_TAP == 0 {
            return Err(NotTap::Tun);
        }
        if flags & libc::IFF_VNET_HDR == 0 || flags & libc::IFF_NO_PI == 0 {
            return Err(NotTap::Flags);
        }
        let file = File::from(fd);
        let nonblocking =
            fcntl_getfl(&file).and_then(|it| fcntl_setfl(&file, it | OFlags::NONBLOCK));
        nonblocking.map_err(|error| NotTap::Other(error.into()))?;
        Tap::prepare(file, &request).map_err(NotTap::Other)
    }

    fn prepare(file: File, request: &libc::ifreq) -> io::Result<Tap> {
        let size = libc::c_int::try_from(HEADER).unwrap_or(0);
        // SAFETY: TUNSETVNETHDRSZ reads an int.
        check(unsafe {
            libc::ioctl(
                file.as_raw_fd(),
                libc::TUNSETVNETHDRSZ as _,
                &raw const size,
            )
        })?;
        let name = name_in(request);
        let writer = file.as_fd().try_clone_to_owned()?;
        let mut tap = Tap { file, writer, news: None, name, offloads: 0 };
        // One after the other: the kernel refuses TSO without CSUM, and a later kernel may refuse
        // one of them.
        let mut bits = 0;
        for (bit, features) in OFFLOADS {
            if tap.set(bits | bit).is_ok() {
                bits |= bit;
                tap.offloads |= features;
            }
        }
        tap.set(0)?;
        Ok(tap)
    }

    /// The same interface, for another device after this one.
    ///
    /// # Errors
    /// The host has no file descriptor left.
    pub fn try_clone(&self) -> io::Result<Tap> {
        Ok(Tap {
            file: self.file.try_clone()?,
            writer: self.writer.try_clone()?,
            news: self.news.as_ref().map(OwnedFd::try_clone).transpose()?,
            name: self.name.clone(),
            offloads: self.offloads,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes it offer no offloads, whatever the kernel supports.
    #[must_use]
    pub fn without_offloads(self) -> Tap {
        Tap { offloads: 0, ..self }
    }

    /// Its name now: somebody may have renamed it.
    fn current_name(&self) -> io::Result<String> {
        request_of(&self.file).map(|request| name_in(&request))
    }

    fn set(&self, offloads: libc::c_uint) -> io::Result<()> {
        // SAFETY: the argument of TUNSETOFFLOAD is a number.
        check(unsafe {
            libc::ioctl(
                self.file.as_raw_fd(),
                libc::TUNSETOFFLOAD as _,
                libc::c_ulong::from(offloads),
            )
        })
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl BackEnd for Tap {
    fn offloads(&self) -> u64 {
        self.offloads
    }

    /// Only what the driver takes is set. What it sends needs no setting.
    fn set_offloads(&mut self, features: u64) {
        let accepted = |(bit, of): (libc::c_uint, u64)| match features & of & feature::GUEST {
            0 => 0,
            _ => bit,
        };
        let bits = OFFLOADS.into_iter().map(accepted).sum();
        if let Err(error) = self.set(bits) {
            // An interface that is gone, which reading will tell.
            log::debug!("{}: TUNSETOFFLOAD: {error}", self.name);
        }
    }

    fn files(&self) -> Vec<(BorrowedFd<'_>, Ready)> {
        let mut files = vec![
            (self.file.as_fd(), Ready::Read),
            (self.writer.as_fd(), Ready::Write),
        ];
        files.extend(self.news.iter().map(|news| (news.as_fd(), Ready::Read)));
        files
    }

    /// Whatever the news are, the kernel is asked again.
    fn ready(&mut self, index: usize) -> Option<bool> {
        let news = self.news.as_ref().filter(|_| index == NEWS)?;
        let mut message = [0; 1];
        // An overflow is also reported, once.
        while match rustix::net::recv(news, &mut message, RecvFlags::TRUNC) {
            Ok(_) => true,
            Err(error) => error == Errno::NOBUFS,
        } {}
        let interface = self.current_name().and_then(|name| interface(&name)).ok()?;
        Some(interface.is_some_and(|it| it.up))
    }

    fn receive(&mut self, to: &mut Writable, rest: &mut [u8]) -> io::Result<usize> {
        to.read_from_with(self.file.as_fd(), rest)
    }

    fn send(&mut self, frame: &mut Readable) -> io::Result<()> {
        // The kernel takes a frame whole or not at all.
        frame.write_to(self.file.as_fd()).map(drop)
    }

    /// EBADFD: the interface was deleted. EIO only says that it is down.
    fn is_gone(&self, error: &io::Error) -> bool {
        error.raw_os_error() == Some(libc::EBADFD)
    }
}

/// What the kernel says about an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interface {
    /// Whether it is up.
    pub up: bool,
    /// Its maximum transmission unit, in bytes.
    pub mtu: u16,
}

/// Asks the kernel about the interface `name` of this network namespace. `None`: there is none.
///
/// # Errors
/// The host has no socket left.
pub fn interface(name: &str) -> io::Result<Option<Interface>> {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )?;
    let mut request = request(name)?;
    // SAFETY: SIOCGIFFLAGS reads and writes an ifreq, which `request` is.
    let got = unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCGIFFLAGS as _,
            &raw mut request,
        )
    };
    match check(got) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
        other => other?,
    }
    // SAFETY: SIOCGIFFLAGS has set the flags.
    let up = libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags }) & libc::IFF_UP != 0;
    // SAFETY: as above, for SIOCGIFMTU.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU as _, &raw mut request) })?;
    // SAFETY: SIOCGIFMTU has set the number.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    Ok(Some(Interface {
        up,
        mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
    }))
}

/// A socket that becomes readable when an interface of this network namespace changes.
fn news() -> io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, netlink, socket_with};
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    // The default protocol, 0, is NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    let groups = libc::RTMGRP_LINK.cast_unsigned();
    bind(&socket, &netlink::SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

/// What the kernel says about the interface of a descriptor: its name and flags.
fn request_of(tap: &impl AsFd) -> io::Result<libc::ifreq> {
    // SAFETY: an ifreq is plain data, for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { zeroed() };
    let fd = tap.as_fd().as_raw_fd();
    // SAFETY: TUNGETIFF writes an ifreq, which `request` is.
    check(unsafe { libc::ioctl(fd, libc::TUNGETIFF as _, &raw mut request) })?;
    Ok(request)
}

fn name_in(request: &libc::ifreq) -> String {
    let bytes = request.ifr_name.map(|byte| byte.to_ne_bytes()[0]);
    CStr::from_bytes_until_nul(&bytes).map_or_else(
        |_| String::new(),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// A request about the interface `name`.
fn request(name: &str) -> io::Result<libc::ifreq> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let name = CString::new(name).map_err(|_| invalid())?;
    // SAFETY: an ifreq is plain data, for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { zeroed() };
    let bytes = name.as_bytes_with_nul();
    let place = request
        .ifr_name
        .get_mut(..bytes.len())
        .ok_or_else(invalid)?;
    for (to, byte) in place.iter_mut().zip(bytes) {
        *to = libc::c_char::from_ne_bytes([*byte]);
    }
    Ok(request)
}

fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
