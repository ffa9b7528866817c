//! The messages of a connection, and their answers.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use devices::transport::vhost_user::Error;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::step::Descriptor;
use super::{World, code};
use crate::ram;

/// Flags of a header: version 1, this is a reply, a reply is wanted.
pub(super) const VERSION: u32 = 1;
pub(super) const REPLY: u32 = 4;
pub(super) const NEED_REPLY: u32 = 8;
/// Most bytes of a message's body.
pub(super) const BODY_MAX: usize = 4096;

/// A front end's connection to the back end.
pub(super) struct Connection {
    pub(super) stream: UnixStream,
    /// The back end's thread, until the connection ends.
    pub(super) served: JoinHandle<Result<usize, Error>>,
}

impl World {
    /// The connection, a new one if there is none.
    pub(super) fn connected(&mut self) -> &mut Connection {
        let backend = &self.backend;
        self.connection.get_or_insert_with(|| {
            let (stream, theirs) = UnixStream::pair().expect("descriptors");
            let backend = Arc::clone(backend);
            Connection { stream, served: thread::spawn(move || backend.serve(theirs)) }
        })
    }

    pub(super) fn send(&mut self, code: u32, body: &[u8], descriptors: &[Descriptor]) {
        self.message(code, VERSION | NEED_REPLY, body, descriptors);
    }

    /// Sends a message, and returns when it has taken effect or ended the connection.
    pub(super) fn message(
        &mut self,
        code: u32,
        flags: u32,
        body: &[u8],
        descriptors: &[Descriptor],
    ) {
        let body = &body[..body.len().min(BODY_MAX)];
        self.say(code, flags, body.len() as u32, body, descriptors);
        self.say(code::GET_FEATURES, VERSION, 0, &[], &[]);
        while let Some((code, _)) = self.answer() {
            if code == code::GET_FEATURES {
                break;
            }
        }
        self.look();
    }

    pub(super) fn say(
        &mut self,
        code: u32,
        flags: u32,
        len: u32,
        body: &[u8],
        descriptors: &[Descriptor],
    ) {
        let mut message = code.to_le_bytes().to_vec();
        message.extend(flags.to_le_bytes());
        message.extend(len.to_le_bytes());
        let descriptors: Vec<RawFd> = descriptors
            .iter()
            .filter_map(|it| self.descriptor(*it))
            .collect();
        let stream = &mut self.connected().stream;
        // If the other end has hung up, the next answer shows that. Descriptors belong to the
        // header.
        let _ = stream.send_with_fds(&[&message[..]], &descriptors);
        let _ = stream.write_all(body);
    }

    pub(super) fn descriptor(&self, which: Descriptor) -> Option<RawFd> {
        Some(match which {
            Descriptor::Event(which) => self.events[usize::from(which % 4)].as_raw_fd(),
            Descriptor::None => return None,
            Descriptor::Ram => ram::file().as_raw_fd(),
            Descriptor::File => self.file.as_raw_fd(),
            Descriptor::Socket => self.socket.as_raw_fd(),
        })
    }

    /// The next answer's code and content; `None` once the connection has ended. The fuzzer limits
    /// the time until one of the two.
    pub(super) fn answer(&mut self) -> Option<(u32, Vec<u8>)> {
        let stream = &mut self.connection.as_mut()?.stream;
        let mut header = [0; 12];
        let mut body = Vec::new();
        let read = stream.read_exact(&mut header).and_then(|()| {
            assert_eq!(word(&header, 4) & (3 | REPLY), VERSION | REPLY);
            let len = word(&header, 8) as usize;
            assert!(len <= BODY_MAX, "an answer of {len} bytes");
            body = vec![0; len];
            stream.read_exact(&mut body)
        });
        match read {
            Ok(()) => Some((word(&header, 0), body)),
            Err(_) => {
                self.ended();
                None
            }
        }
    }

    pub(super) fn features(&mut self) -> u64 {
        self.say(code::GET_FEATURES, VERSION, 0, &[], &[]);
        match self.answer() {
            Some((code::GET_FEATURES, body)) => u64::from_le_bytes(body.try_into().expect("8")),
            // It had hung up already.
            _ => 0,
        }
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4"))
}
