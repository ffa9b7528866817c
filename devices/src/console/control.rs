//! The control queues of a console with several ports (MULTIPORT, § 5.3.6.2): what driver and device say about them.
//!
//! ```text
//!   driver                                   device
//!   DEVICE_READY 1            ──▶
//!                             ◀──  PORT_ADD, for each port
//!   PORT_READY 1              ──▶
//!                             ◀──  CONSOLE_PORT and RESIZE for a console, PORT_OPEN, PORT_NAME
//!   PORT_OPEN 1 or 0          ──▶            when a program there opens or closes it
//!                             ◀──  PORT_OPEN 1 or 0 when somebody here comes or goes; RESIZE
//! ```
//! The device keeps no messages, only which ones are due: a message says what is so when it is sent. So a driver that
//! gives no buffers for them makes nothing grow.

use log::debug;

use super::config::Window;
use super::known::event;
use super::port::Port;
use crate::virtio::chain::Chain;

/// Bytes of a message: le32 port, le16 event, le16 value. A name or a size may follow.
const MESSAGE: usize = 8;

/// Writes the next message that is due into a buffer of the driver's; `None` if none is. A buffer that is too short gets
/// what fits.
pub(super) fn say(ports: &mut [Port], window: Option<&Window>, chain: &mut Chain) -> Option<u32> {
    let mut due = ports.iter_mut().zip(0_u32..);
    let (port, id, event) = due.find_map(|(port, id)| {
        let event = port.known.next()?;
        Some((port, id, event))
    })?;
    let value = match event {
        event::PORT_OPEN => port.is_linked().into(),
        _ => 1_u16,
    };
    let size = window.map(Window::bytes);
    let more = match event {
        event::RESIZE => size.as_ref().map_or(&[][..], |size| size),
        event::PORT_NAME => port.name.as_deref().unwrap_or_default().as_bytes(),
        _ => &[],
    };
    let [a, b, c, d] = id.to_le_bytes();
    let ([e, f], [g, h]) = (event.to_le_bytes(), value.to_le_bytes());
    let written = chain.writable().write(&[a, b, c, d, e, f, g, h]) + chain.writable().write(more);
    // A name has no more than 64 bytes.
    Some(u32::try_from(written).unwrap_or(u32::MAX))
}

/// Takes a message of the driver's. One that makes no sense is ignored. True if a port was opened.
pub(super) fn hear(ports: &mut [Port], window: bool, chain: &mut Chain) -> bool {
    let Some(message) = chain.readable().take::<MESSAGE>() else {
        return false;
    };
    let [a, b, c, d, e, f, g, h] = message;
    let id = u32::from_le_bytes([a, b, c, d]);
    let (event, value) = (u16::from_le_bytes([e, f]), u16::from_le_bytes([g, h]));
    if event == event::DEVICE_READY {
        for port in ports
            .iter_mut()
            .filter(|port| value == 1 && !port.known.added)
        {
            port.known.tell(event::PORT_ADD);
        }
        return false;
    }
    // A port that the driver was not told of does not exist for it.
    let port = usize::try_from(id).ok().and_then(|id| ports.get_mut(id));
    let Some(port) = port.filter(|port| port.known.added) else {
        debug!("console: control event {event} of port {id}, which there is not");
        return false;
    };
    match (event, value) {
        (event::PORT_READY, 1) => {
            port.known.ready = true;
            if id == 0 {
                port.known.tell(event::CONSOLE_PORT);
            }
            if id == 0 && window {
                port.known.tell(event::RESIZE);
            }
            if port.name.is_some() {
                port.known.tell(event::PORT_NAME);
            }
            port.known.tell(event::PORT_OPEN);
            false
        }
        (event::PORT_OPEN, value) => {
            port.known.open = value != 0;
            port.known.open
        }
        _ => {
            debug!("console: control event {event} with value {value} of port {id}");
            false
        }
    }
}
