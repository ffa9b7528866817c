//! The control queues of a console with several ports (MULTIPORT, § 5.3.6.2), and their messages.
//!
//! ```text
//!   driver                                   device
//!   DEVICE_READY 1            ──▶
//!                             ◀──  PORT_ADD, for each port
//!   PORT_READY 1              ──▶
//!                             ◀──  CONSOLE_PORT and RESIZE for a console, PORT_OPEN, PORT_NAME
//!   PORT_OPEN 1 or 0          ──▶            when a guest program opens or closes it
//!                             ◀──  PORT_OPEN 1 or 0 when a host client comes or goes; RESIZE
//! ```
//! The device does not queue messages. It only records which are due, and reads their contents when
//! it sends them. So a driver that provides no buffers does not make anything grow.

use log::debug;

use super::config::Window;
use super::port::Port;
use super::port_state::event;
use crate::virtio::chain::Chain;

/// Bytes of a message: le32 port, le16 event, le16 value. A name or a window size may follow.
const MESSAGE: usize = 8;

/// Writes the next message that is due to a buffer of the driver; `None` if there is none. If the
/// buffer is too short, the message is truncated.
pub(super) fn send(ports: &mut [Port], window: Option<&Window>, chain: &mut Chain) -> Option<u32> {
    let mut due = ports.iter_mut().zip(0_u32..);
    let (port, id, event) = due.find_map(|(port, id)| {
        let event = port.state.take_due()?;
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

/// Handles a message from the driver. An invalid one is ignored. Returns whether a port was opened.
pub(super) fn handle(ports: &mut [Port], window: bool, chain: &mut Chain) -> bool {
    let Some(message) = chain.readable().take::<MESSAGE>() else {
        return false;
    };
    let [a, b, c, d, e, f, g, h] = message;
    let id = u32::from_le_bytes([a, b, c, d]);
    let (event, value) = (u16::from_le_bytes([e, f]), u16::from_le_bytes([g, h]));
    if event == event::DEVICE_READY {
        for port in ports
            .iter_mut()
            .filter(|port| value == 1 && !port.state.added)
        {
            port.state.set_due(event::PORT_ADD);
        }
        return false;
    }
    // For the driver, a port exists only after PORT_ADD.
    let port = usize::try_from(id).ok().and_then(|id| ports.get_mut(id));
    let Some(port) = port.filter(|port| port.state.added) else {
        debug!("console: control event {event} of port {id}, which does not exist");
        return false;
    };
    match (event, value) {
        (event::PORT_READY, 1) => {
            port.state.ready = true;
            if id == 0 {
                port.state.set_due(event::CONSOLE_PORT);
            }
            if id == 0 && window {
                port.state.set_due(event::RESIZE);
            }
            if port.name.is_some() {
                port.state.set_due(event::PORT_NAME);
            }
            port.state.set_due(event::PORT_OPEN);
            false
        }
        (event::PORT_OPEN, value) => {
            port.state.open = value != 0;
            port.state.open
        }
        _ => {
            debug!("console: control event {event} with value {value} of port {id}");
            false
        }
    }
}
