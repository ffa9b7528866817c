//! Decompresses kernels once, before any guest starts, into a file in memory.
//!
//! The output is as untrusted as the input. It may not be larger than the guest's RAM, since it
//! could not be loaded then. So a few bytes that expand to terabytes do no harm.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use flate2::bufread::GzDecoder;
use rustix::fs::{MemfdFlags, memfd_create};
use ruzstd::decoding::StreamingDecoder;

use super::error::KernelError;
use crate::error::Error;
use crate::host::files::FileError;
use crate::size;

/// Bytes decompressed per step.
const BUFFER: usize = 1 << 16;

/// A compression format of kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    /// RFC 1952.
    Gzip,
    /// RFC 8878, with windows up to 128 MiB, the default limit of zstd(1).
    Zstd,
}

impl Compression {
    const ALL: [Compression; 2] = [Compression::Gzip, Compression::Zstd];

    /// Detects the format by the first bytes.
    pub(super) fn of(head: &[u8]) -> Option<Compression> {
        Self::ALL
            .into_iter()
            .find(|compression| head.starts_with(compression.magic()))
    }

    fn magic(self) -> &'static [u8] {
        match self {
            Compression::Gzip => b"\x1f\x8b",
            Compression::Zstd => b"\x28\xb5\x2f\xfd",
        }
    }

    /// Returns its name for messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        }
    }
}

/// Decompresses `section` (in bytes) of the file at `path`, to at most `limit` bytes. Returns a
/// file in memory with the output, and its length in bytes.
///
/// Several consecutive members (gzip) or frames (zstd) are concatenated, as by gzip(1) and zstd(1).
/// Other trailing bytes, such as a signature or padding, are ignored.
pub(super) fn unpack(
    path: &Path,
    file: &File,
    section: Range<u64>,
    compression: Compression,
    limit: u64,
) -> Result<(File, u64), Error> {
    let unpacked = memfd_create(c"unpacked kernel", MemfdFlags::CLOEXEC);
    let unpacked = unpacked.map_err(|errno| cannot_keep(errno.into()))?;
    let mut sink = Sink { file: unpacked.into(), buffer: vec![0; BUFFER], length: 0, limit };
    let mut next = section.start;
    while next == section.start || begins(file, next..section.end, compression) {
        let mut input = BufReader::new(Section {
            file,
            at: next,
            end: section.end,
            ended: false,
            failed: None,
        });
        let outcome = match compression {
            Compression::Gzip => sink.fill(&mut GzDecoder::new(&mut input)),
            Compression::Zstd => zstd_frame(&mut input, &mut sink),
        };
        let ahead = input.buffer().len() as u64;
        let input = input.into_inner();
        next = input.at.saturating_sub(ahead);
        outcome.map_err(|fault| explain(fault, path, compression, limit, &section, input))?;
    }
    if next < section.end {
        log::debug!("{} bytes after the compressed kernel", section.end - next);
    }
    match sink.length {
        0 => Err(FileError::content(
            "kernel",
            path,
            format!("its {} data decompress to nothing", compression.name()),
        )),
        length => Ok((sink.file, length)),
    }
}

/// Whether another member or frame starts here.
fn begins(file: &File, section: Range<u64>, compression: Compression) -> bool {
    let mut head = [0; 4];
    let room = usize::try_from(section.end - section.start).unwrap_or(usize::MAX);
    let Some(head) = head.get_mut(..compression.magic().len().min(room)) else {
        return false;
    };
    file.read_exact_at(head, section.start).is_ok() && head == compression.magic()
}

/// Decompresses one frame and checks its checksum, if any: the decoder computes it but does not
/// compare it.
fn zstd_frame(input: &mut impl BufRead, sink: &mut Sink) -> Result<(), Fault> {
    let mut decoder =
        StreamingDecoder::new(input).map_err(|error| Fault::Input(error.to_string()))?;
    sink.fill(&mut decoder)?;
    let decoder = decoder.into_frame_decoder();
    match (
        decoder.get_checksum_from_data(),
        decoder.get_calculated_checksum(),
    ) {
        (Some(stated), Some(found)) if stated != found => Err(Fault::Input(format!(
            "its checksum is {stated:#x}, but its content has {found:#x}"
        ))),
        _ => Ok(()),
    }
}

/// Why decompression stopped early.
enum Fault {
    /// The input is invalid; the decoder's message.
    Input(String),
    /// The output exceeds the limit.
    TooLarge,
    /// The output could not be stored.
    Output(io::Error),
}

fn explain(
    fault: Fault,
    path: &Path,
    compression: Compression,
    limit: u64,
    section: &Range<u64>,
    input: Section<'_>,
) -> Error {
    let problem = match (fault, input.failed) {
        (Fault::TooLarge, _) => {
            return Error::from(KernelError::Unpacked {
                path: path.into(),
                compression: compression.name(),
                memory: size::show(limit),
            });
        }
        (Fault::Output(source), _) => return cannot_keep(source),
        (Fault::Input(_), Some(source)) => {
            return FileError::read("kernel", path)(source);
        }
        (Fault::Input(_), None) if input.ended => format!(
            "its {} data is truncated: it does not end within {} bytes",
            compression.name(),
            section.end - section.start
        ),
        (Fault::Input(problem), None) => {
            format!("its {} data is corrupt: {problem}", compression.name())
        }
    };
    FileError::content("kernel", path, problem)
}

fn cannot_keep(source: io::Error) -> Error {
    Error::host("keep the unpacked kernel in memory")(source)
}

/// Receives the output.
struct Sink {
    file: File,
    buffer: Vec<u8>,
    length: u64,
    limit: u64,
}

impl Sink {
    /// Copies all of `source`, or stops at the first byte beyond the limit.
    fn fill(&mut self, source: &mut impl Read) -> Result<(), Fault> {
        loop {
            let bytes = match source.read(&mut self.buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => self.buffer.get(..count).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Fault::Input(error.to_string())),
            };
            self.length += bytes.len() as u64;
            if self.length > self.limit {
                return Err(Fault::TooLarge);
            }
            self.file.write_all(bytes).map_err(Fault::Output)?;
        }
    }
}

/// A part of a file, read in order. It records how reading ended, because decoders report that in
/// many ways.
struct Section<'a> {
    file: &'a File,
    at: u64,
    end: u64,
    /// A read went beyond the end.
    ended: bool,
    failed: Option<io::Error>,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let room = buffer.len().min(left);
        let count = match self
            .file
            .read_at(buffer.get_mut(..room).unwrap_or_default(), self.at)
        {
            Ok(count) => count,
            Err(error) => {
                let kind = error.kind();
                self.failed = Some(error);
                return Err(kind.into());
            }
        };
        self.ended |= count == 0;
        self.at += count as u64;
        Ok(count)
    }
}
