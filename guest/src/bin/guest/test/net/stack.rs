//! IP over a network card, by smoltcp: DHCP, ping, UDP.

use core::net::{Ipv4Addr, SocketAddrV4};

use guest::net::{FRAME_MAX, Net};
use guest::tap::{Failure, Point, Verdict};
use guest::timer::{self, Deadline};
use guest::{Error, Wait, ensure};
use smoltcp::iface::{Config, Interface, PollIngressSingleResult, SocketSet, SocketStorage};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{dhcpv4, icmp, udp};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, Icmpv4Packet, Icmpv4Repr, IpAddress};

use super::{ANSWER, Host, Registers, deadline};

/// Longest time for an offer of DHCP and its acknowledgement, in microseconds: a request is
/// repeated after 10 s.
const LEASE: u64 = 25_000_000;
/// The identifier of the pings, and the source port of the datagram.
const IDENTIFIER: u16 = 0x4856;
/// The datagram.
const MESSAGE: &[u8] = b"a datagram of the guest";

/// An IP stack on a card.
pub(super) struct Stack<'a> {
    port: Port<'a>,
    interface: Interface,
}

impl<'a> Stack<'a> {
    /// A stack with the addresses of `host`, if it is known.
    pub(super) fn new(
        net: &'a mut Net<Registers>,
        mac: EthernetAddress,
        host: Option<Host>,
    ) -> Self {
        let [incoming, outgoing] = [[0; FRAME_MAX]; 2];
        let mut port = Port { net, incoming, outgoing, error: None };
        let mut config = Config::new(mac.into());
        config.random_seed = timer::now();
        let mut interface = Interface::new(config, &mut port, now());
        if let Some(Host { address, gateway }) = host {
            // There is room for one of each.
            interface.update_ip_addrs(|addresses| {
                let _ = addresses.push(address.into());
            });
            let _ = interface.routes_mut().add_default_ipv4_route(gateway);
        }
        Self { port, interface }
    }

    /// Asks for an address. Without a router, the server is the gateway.
    pub(super) fn dhcp(mut self) -> Result<Host, Failure> {
        let mut storage = [SocketStorage::EMPTY];
        let mut sockets = SocketSet::new(&mut storage[..]);
        let handle = sockets.add(dhcpv4::Socket::new());
        let host = self.run(&mut sockets, LEASE, |sockets| {
            match sockets.get_mut::<dhcpv4::Socket<'_>>(handle).poll()? {
                dhcpv4::Event::Configured(config) => {
                    let gateway = config.router.unwrap_or(config.server.address);
                    Some(Host { address: config.address, gateway })
                }
                dhcpv4::Event::Deconfigured => None,
            }
        })?;
        host.ok_or_else(|| {
            let seconds = LEASE / 1_000_000;
            Failure::new(format_args!(
                "no ip=ADDRESS/PREFIX,GATEWAY, and no lease from a DHCP server within {seconds} s"
            ))
        })
    }

    /// Sends an echo request with `len` bytes, and returns after how many microseconds it was
    /// answered.
    pub(super) fn ping(&mut self, to: Ipv4Addr, len: usize) -> Result<u64, Failure> {
        let pattern: [u8; FRAME_MAX] = core::array::from_fn(|at| at.to_le_bytes()[0]);
        let data = pattern.get(..len).unwrap_or_default();
        let mut meta = [icmp::PacketMetadata::EMPTY; 2];
        let [mut incoming, mut outgoing] = [[0; FRAME_MAX]; 2];
        let [receives, sends] = &mut meta;
        let mut socket = icmp::Socket::new(
            icmp::PacketBuffer::new(core::slice::from_mut(receives), &mut incoming[..]),
            icmp::PacketBuffer::new(core::slice::from_mut(sends), &mut outgoing[..]),
        );
        let request = Icmpv4Repr::EchoRequest { ident: IDENTIFIER, seq_no: 1, data };
        let bound = socket.bind(icmp::Endpoint::Ident(IDENTIFIER));
        bound.map_err(|error| Failure::new(format_args!("{error}")))?;
        let packet = socket.send(request.buffer_len(), to.into());
        let packet = packet.map_err(|error| Failure::new(format_args!("{error}")))?;
        let checksums = ChecksumCapabilities::default();
        request.emit(&mut Icmpv4Packet::new_unchecked(packet), &checksums);

        let mut storage = [SocketStorage::EMPTY];
        let mut sockets = SocketSet::new(&mut storage[..]);
        let handle = sockets.add(socket);
        let begin = timer::now();
        let answer = self.run(&mut sockets, ANSWER, |sockets| {
            let socket = sockets.get_mut::<icmp::Socket<'_>>(handle);
            let (packet, from) = socket.recv().ok()?;
            let packet = Icmpv4Packet::new_checked(packet).ok()?;
            match Icmpv4Repr::parse(&packet, &checksums).ok()? {
                Icmpv4Repr::EchoReply { data: back, .. } => {
                    Some(from == IpAddress::from(to) && back == data)
                }
                _ => None,
            }
        })?;
        ensure!(
            answer.is_some(),
            "no answer from {to} to a ping of {len} bytes within {} s",
            ANSWER / 1_000_000
        );
        ensure!(
            answer == Some(true),
            "other bytes in the answer of {to} to {len} bytes"
        );
        Ok(timer::microseconds(timer::now() - begin))
    }

    /// Sends a datagram, which must come back.
    pub(super) fn datagram(&mut self, to: SocketAddrV4) -> Verdict {
        let mut meta = [udp::PacketMetadata::EMPTY; 2];
        let [mut incoming, mut outgoing] = [[0; FRAME_MAX]; 2];
        let [receives, sends] = &mut meta;
        let mut socket = udp::Socket::new(
            udp::PacketBuffer::new(core::slice::from_mut(receives), &mut incoming[..]),
            udp::PacketBuffer::new(core::slice::from_mut(sends), &mut outgoing[..]),
        );
        let bound = socket.bind(IDENTIFIER);
        bound.map_err(|error| Failure::new(format_args!("{error}")))?;
        let sent = socket.send_slice(MESSAGE, (*to.ip(), to.port()));
        sent.map_err(|error| Failure::new(format_args!("{error}")))?;

        let mut storage = [SocketStorage::EMPTY];
        let mut sockets = SocketSet::new(&mut storage[..]);
        let handle = sockets.add(socket);
        let answer = self.run(&mut sockets, ANSWER, |sockets| {
            let socket = sockets.get_mut::<udp::Socket<'_>>(handle);
            let (back, _) = socket.recv().ok()?;
            Some(back == MESSAGE)
        })?;
        ensure!(
            answer.is_some(),
            "no datagram from {to} within {} s",
            ANSWER / 1_000_000
        );
        ensure!(answer == Some(true), "another datagram from {to}");
        Ok(Point::Pass)
    }

    /// Answers pings until `look` finds something.
    pub(super) fn answer<T>(&mut self, mut look: impl FnMut() -> Option<T>) -> Result<T, Error> {
        let mut sockets = SocketSet::new(&mut [][..]);
        loop {
            if let Some(found) = self.run(&mut sockets, ANSWER, |_| look())? {
                return Ok(found);
            }
        }
    }

    /// Runs the stack until `look` finds something, or for this many microseconds.
    fn run<T>(
        &mut self,
        sockets: &mut SocketSet<'_>,
        microseconds: u64,
        mut look: impl FnMut(&mut SocketSet<'_>) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let mut wait = Deadline::after(microseconds);
        let end = timer::now().saturating_add(timer::ticks(microseconds));
        loop {
            // One frame per round: poll() would not return from a flood of them.
            let arrived = self
                .interface
                .poll_ingress_single(now(), &mut self.port, sockets);
            self.interface.poll_egress(now(), &mut self.port, sockets);
            if let Some(error) = self.port.error.take() {
                return Err(error);
            }
            if let Some(found) = look(sockets) {
                return Ok(Some(found));
            }
            let over = match arrived {
                PollIngressSingleResult::None => !wait.wait(),
                _ => timer::now() >= end,
            };
            if over {
                return Ok(None);
            }
        }
    }
}

fn now() -> Instant {
    let microseconds = timer::microseconds(timer::now());
    Instant::from_micros(i64::try_from(microseconds).unwrap_or(i64::MAX))
}

/// A card as smoltcp sees it.
struct Port<'a> {
    net: &'a mut Net<Registers>,
    incoming: [u8; FRAME_MAX],
    outgoing: [u8; FRAME_MAX],
    /// The driver's last error, for which smoltcp has no place.
    error: Option<Error>,
}

impl Device for Port<'_> {
    type RxToken<'t>
        = Received<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Sending<'t>
    where
        Self: 't;

    fn receive(&mut self, _: Instant) -> Option<(Received<'_>, Sending<'_>)> {
        let Self { net, incoming, outgoing, error } = self;
        let len = match net.receive(incoming) {
            Ok(len) => len?,
            Err(found) => {
                *error = Some(found);
                return None;
            }
        };
        let frame = incoming.get(..len).unwrap_or_default();
        Some((Received(frame), Sending { net, outgoing, error }))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        let Self { net, outgoing, error, .. } = self;
        Some(Sending { net, outgoing, error })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        // With the Ethernet header.
        capabilities.max_transmission_unit = self.net.frame_max();
        capabilities
    }
}

struct Received<'a>(&'a [u8]);

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(self.0)
    }
}

struct Sending<'a> {
    net: &'a mut Net<Registers>,
    outgoing: &'a mut [u8; FRAME_MAX],
    error: &'a mut Option<Error>,
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let Self { net, outgoing, error } = self;
        // Never longer than `capabilities` says.
        let frame = outgoing.get_mut(..len).unwrap_or_default();
        let result = write(frame);
        if let Err(found) = net.send(frame, &mut deadline()) {
            *error = Some(found);
        }
        result
    }
}
