//! The first network card: its driver, then ARP, ICMP and UDP to whatever answers at the other end.
//!
//! The address is `ip=ADDRESS/PREFIX,GATEWAY` of the command line, or else comes from DHCP. With
//! `udp=ADDRESS:PORT` a datagram is sent there, which must come back.

mod arp;
mod stack;

use core::fmt;
use core::net::{Ipv4Addr, SocketAddrV4};

use guest::fdt::{Board, Slot};
use guest::net::{ETHERNET, Net, WANTED, features};
use guest::tap::{Failure, Point, Verdict};
use guest::virtio::device;
use guest::{Dma, Error, ensure, irq};
use smoltcp::wire::{EthernetAddress, Ipv4Cidr};

use super::{Registers, Rig, deadline, devices, interrupt, setting};
use stack::Stack;

pub(super) const POINTS: u32 = 7;

/// Longest time for an answer from the network, in microseconds.
const ANSWER: u64 = 10_000_000;
/// Time until a request is repeated, in microseconds.
const REPEAT: u64 = 1_000_000;
/// Bytes of the pings' payloads. The last is cut to what fits into a packet.
const PAYLOADS: [usize; 3] = [1, 56, 1400];
/// Bytes of the headers of IPv4 and ICMP.
const ICMP: usize = 28;
/// The smallest MTU of IPv4 (§5.1.4.1).
const MTU_MIN: u16 = 68;

const NO_CARD: Point = Point::Skip("no network device");
const NO_GATEWAY: Point = Point::Skip("no gateway that answers");
const NO_PEER: Point = Point::Skip("no udp=ADDRESS:PORT");

/// A card with its driver.
struct Card {
    slot: Slot,
    net: Net<Registers>,
    mac: EthernetAddress,
    /// `None` until it is known.
    host: Option<Host>,
}

/// The addresses of this machine and of the one that it talks to.
#[derive(Clone, Copy)]
struct Host {
    address: Ipv4Cidr,
    gateway: Ipv4Addr,
}

/// One test: a name and a function of a card.
type Test = (&'static str, fn(&mut Rig<'_>, &mut Card) -> Verdict);

const TESTS: [Test; 5] = [
    ("net: its interrupt arrives", interrupts),
    ("net: an address, from ip= or by DHCP", address),
    ("net: the gateway answers ARP", neighbour),
    (
        "net: the gateway answers pings of 1, 56 and 1400 bytes",
        pings,
    ),
    ("net: a datagram comes back", datagram),
];

/// Prints an address as Linux does.
struct Colons(EthernetAddress);

impl fmt::Display for Colons {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

pub(super) fn run(rig: &mut Rig<'_>) {
    let mut card = open(rig);
    let verdict = match &card {
        Ok(None) => Ok(NO_CARD),
        Ok(Some(_)) => Ok(Point::Pass),
        Err(failure) => Err(*failure),
    };
    rig.tap
        .point("net: hardware address, link and MTU", verdict);
    for (name, test) in TESTS {
        let verdict = match &mut card {
            Ok(Some(card)) => test(rig, card),
            _ => Ok(NO_CARD),
        };
        rig.tap.point(name, verdict);
    }
    let verdict = match card {
        Ok(Some(card)) => plain(rig, card),
        _ => Ok(NO_CARD),
    };
    rig.tap
        .point("net: works without any optional feature", verdict);
}

/// Opens the first card, and checks its configuration.
fn open(rig: &mut Rig<'_>) -> Result<Option<Card>, Failure> {
    let Some((slot, transport)) = devices(rig.board, device::NETWORK).next() else {
        return Ok(None);
    };
    irq::watch(slot);
    let net = Net::new(transport, &mut rig.dma, WANTED)?;
    let accepted = net.transport().features();
    ensure!(accepted & features::MAC != 0, "MAC is not offered");
    let mac = EthernetAddress(net.mac()?.unwrap_or_default());
    ensure!(mac.is_unicast(), "{} is no address of a card", Colons(mac));
    let mtu = net.mtu();
    ensure!(mtu.is_none_or(|mtu| mtu >= MTU_MIN), "MTU {mtu:?}");
    ensure!(net.is_up()?, "the link is down");
    rig.tap.comment(format_args!(
        "{:#x}: network card {}, MTU {}, features {accepted:#x}",
        slot.base,
        Colons(mac),
        net.frame_max() - ETHERNET,
    ));
    Ok(Some(Card { slot, net, mac, host: None }))
}

/// Answers pings to the address of `ip=`, with the first card, until `look` finds something. `None`
/// without this address or without a card.
pub(crate) fn answer<T>(
    board: &Board<'_>,
    dma: &mut Dma,
    look: impl FnMut() -> Option<T>,
) -> Result<Option<T>, Error> {
    let host = setting(board, "ip").and_then(parse);
    let (Some(host), Some((slot, transport))) = (host, devices(board, device::NETWORK).next())
    else {
        return Ok(None);
    };
    irq::watch(slot);
    let mut net = Net::new(transport, dma, WANTED)?;
    let mac = EthernetAddress(net.mac()?.unwrap_or_default());
    Stack::new(&mut net, mac, Some(host)).answer(look).map(Some)
}

/// One frame that nobody answers, so that one interrupt follows.
fn interrupts(_: &mut Rig<'_>, card: &mut Card) -> Verdict {
    interrupt::follows(card.slot, || {
        Ok(card.net.send(&arp::nothing(card.mac), &mut deadline())?)
    })
}

fn address(rig: &mut Rig<'_>, card: &mut Card) -> Verdict {
    let (host, from) = match setting(rig.board, "ip") {
        Some(text) => {
            let host = parse(text).ok_or_else(|| {
                Failure::new(format_args!("ip={text}: expected ADDRESS/PREFIX,GATEWAY"))
            })?;
            (host, "from ip=")
        }
        None => (Stack::new(&mut card.net, card.mac, None).dhcp()?, "by DHCP"),
    };
    rig.tap.comment(format_args!(
        "address {}, gateway {}, {from}",
        host.address, host.gateway
    ));
    card.host = Some(host);
    Ok(Point::Pass)
}

fn neighbour(rig: &mut Rig<'_>, card: &mut Card) -> Verdict {
    let Some(host) = card.host else {
        return Ok(NO_GATEWAY);
    };
    // The next tests need it.
    card.host = None;
    let found = arp::resolve(&mut card.net, card.mac, host)?;
    let place = Colons(found);
    rig.tap
        .comment(format_args!("{} is at {place}", host.gateway));
    ensure!(found.is_unicast() && found != card.mac, "it is at {place}");
    card.host = Some(host);
    Ok(Point::Pass)
}

fn pings(rig: &mut Rig<'_>, card: &mut Card) -> Verdict {
    let Some(host) = card.host else {
        return Ok(NO_GATEWAY);
    };
    let most = card.net.frame_max().saturating_sub(ETHERNET + ICMP);
    let mut stack = Stack::new(&mut card.net, card.mac, Some(host));
    for len in PAYLOADS {
        let len = len.min(most);
        let spent = stack.ping(host.gateway, len)?;
        rig.tap.comment(format_args!(
            "{len} bytes to {} and back: {spent} us",
            host.gateway
        ));
    }
    Ok(Point::Pass)
}

fn datagram(rig: &mut Rig<'_>, card: &mut Card) -> Verdict {
    let Some(text) = setting(rig.board, "udp") else {
        return Ok(NO_PEER);
    };
    let peer: Result<SocketAddrV4, _> = text.parse();
    let peer = peer.map_err(|_| Failure::new(format_args!("udp={text}: expected ADDRESS:PORT")))?;
    match card.host {
        Some(host) => Stack::new(&mut card.net, card.mac, Some(host)).datagram(peer),
        None => Ok(NO_GATEWAY),
    }
}

/// A ping without indirect descriptors, event indices and mergeable buffers.
fn plain(rig: &mut Rig<'_>, card: Card) -> Verdict {
    let Card { net, mac, host, .. } = card;
    let mut net = Net::new(net.into_transport(), &mut rig.dma, 0)?;
    let result = match host {
        Some(host) => {
            let mut stack = Stack::new(&mut net, mac, Some(host));
            stack.ping(host.gateway, 1).map(|_| Point::Pass)
        }
        None => Ok(NO_GATEWAY),
    };
    net.into_transport().reset()?;
    result
}

/// `ADDRESS/PREFIX,GATEWAY`.
fn parse(text: &str) -> Option<Host> {
    let (address, gateway) = text.split_once(',')?;
    let (address, prefix) = address.split_once('/')?;
    let prefix = prefix.parse().ok().filter(|bits| *bits <= 32)?;
    let address = Ipv4Cidr::new(address.parse().ok()?, prefix);
    Some(Host { address, gateway: gateway.parse().ok()? })
}
