use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use super::*;

/// Writes until the reader's buffer is full. Returns the number of bytes written, and the error.
fn fill(writer: &mut TimedWriter) -> (usize, ErrorKind) {
    let mut sent = 0;
    loop {
        match writer.write(&[b'.'; 1000]) {
            Ok(count) => sent += count,
            Err(error) => return (sent, error.kind()),
        }
    }
}

#[test]
fn a_reader_that_has_stopped_is_given_up_until_it_goes_on() {
    let (pipe_reader, pipe) = io::pipe().unwrap();
    let (socket_reader, socket) = UnixStream::pair().unwrap();
    let ends = [
        (OwnedFd::from(pipe_reader), OwnedFd::from(pipe)),
        (socket_reader.into(), socket.into()),
    ];
    for (reader, output) in ends {
        let mut writer = TimedWriter::new(output.as_fd()).unwrap();
        let (sent, error) = fill(&mut writer);
        assert!(sent > 0);
        assert_eq!(error, ErrorKind::TimedOut);
        assert!(
            !is_nonblocking(&File::from(output)),
            "whoever shares the output finds it as it was"
        );
        let mut reader = File::from(reader);
        reader.read_exact(&mut vec![0; sent]).unwrap();
        assert_eq!(writer.write(b"on").unwrap(), 2);
        drop(reader);
        let error = writer.write(b"gone").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    }
}

#[test]
fn one_that_can_only_be_asked_is_given_up_as_well() {
    let (_reader, output) = io::pipe().unwrap();
    let mut writer =
        TimedWriter { file: OwnedFd::from(output).into(), mode: Mode::Polled, stopped: false };
    let (sent, error) = fill(&mut writer);
    assert!(sent > 0);
    assert_eq!(error, ErrorKind::TimedOut);
}
