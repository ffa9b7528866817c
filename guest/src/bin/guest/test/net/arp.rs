//! Frames made by hand, without an IP stack: ARP, and a frame that nobody answers.

use core::net::Ipv4Addr;

use guest::net::{ETHERNET, FRAME_MAX, Net};
use guest::tap::Failure;
use guest::timer::Deadline;
use guest::{Error, Wait};
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
    EthernetRepr,
};

use super::{ANSWER, Host, REPEAT, Registers, deadline};

/// Bytes of an ARP request or reply for Ethernet and IPv4.
const ARP: usize = 28;
/// A frame of ARP.
type Frame = [u8; ETHERNET + ARP];
/// "Local Experimental Ethertype 1" of IEEE 802: no host has a protocol for it.
const EXPERIMENTAL: u16 = 0x88b5;

/// A broadcast that nobody answers.
pub(super) fn nothing(mac: EthernetAddress) -> Frame {
    broadcast(mac, EthernetProtocol::Unknown(EXPERIMENTAL))
}

/// Asks for the gateway's hardware address.
pub(super) fn resolve(
    net: &mut Net<Registers>,
    mac: EthernetAddress,
    host: Host,
) -> Result<EthernetAddress, Failure> {
    let request = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: mac,
        source_protocol_addr: host.address.address(),
        target_hardware_addr: EthernetAddress::default(),
        target_protocol_addr: host.gateway,
    };
    let mut frame = broadcast(mac, EthernetProtocol::Arp);
    let (_, body) = frame.split_at_mut(ETHERNET);
    request.emit(&mut ArpPacket::new_unchecked(body));
    for _ in 0..ANSWER / REPEAT {
        net.send(&frame, &mut deadline())?;
        if let Some(answer) = answer(net, host.gateway)? {
            return Ok(answer);
        }
    }
    Err(Failure::new(format_args!(
        "no ARP reply from {} within {} s",
        host.gateway,
        ANSWER / 1_000_000
    )))
}

/// Waits for [`REPEAT`] for a reply from `from`.
fn answer(net: &mut Net<Registers>, from: Ipv4Addr) -> Result<Option<EthernetAddress>, Error> {
    let mut frame = [0; FRAME_MAX];
    let mut wait = Deadline::after(REPEAT);
    loop {
        if let Some(len) = net.receive(&mut frame)? {
            let frame = frame.get(..len).unwrap_or_default();
            if let Some(answer) = reply(frame, from) {
                return Ok(Some(answer));
            }
        }
        // After each frame, so that a flood of them does not keep us here.
        if !wait.wait() {
            return Ok(None);
        }
    }
}

/// The sender of this ARP reply from `from`.
fn reply(frame: &[u8], from: Ipv4Addr) -> Option<EthernetAddress> {
    let frame = EthernetFrame::new_checked(frame).ok()?;
    let ours = frame.ethertype() == EthernetProtocol::Arp;
    let packet = ArpPacket::new_checked(frame.payload()).ok()?;
    match ArpRepr::parse(&packet).ok()? {
        ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Reply,
            source_hardware_addr,
            source_protocol_addr,
            ..
        } if ours && source_protocol_addr == from => Some(source_hardware_addr),
        _ => None,
    }
}

fn broadcast(mac: EthernetAddress, ethertype: EthernetProtocol) -> Frame {
    let mut frame = [0; ETHERNET + ARP];
    EthernetRepr { src_addr: mac, dst_addr: EthernetAddress::BROADCAST, ethertype }
        .emit(&mut EthernetFrame::new_unchecked(&mut frame));
    frame
}
