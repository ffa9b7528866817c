use std::io::{Read, Write};
use std::os::unix::net::UnixListener;

use super::*;

#[test]
fn a_fifo_that_nobody_reads_fills_up_and_does_not_block() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fifo");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // Opened without a reader, and kept for a later one.
    let port = Port::open("--console", "--console", &Target::File(path.clone()));
    let output = port.unwrap().unwrap().output().unwrap();
    let mut output = output.file();
    let mut sent = 0;
    let full = loop {
        match output.write(&[b'.'; 4096]) {
            Ok(count) => sent += count,
            Err(error) => break error,
        }
    };
    assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
    let mut reader = File::open(path).unwrap();
    reader.read_exact(&mut vec![0; sent]).unwrap();
    // And for the next reader, after that one has closed it.
    drop(reader);
    assert_eq!(output.write(b"on").unwrap(), 2);
}

#[test]
fn what_cannot_be_opened_is_noticed_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("file"), b"x").unwrap();
    let check = |target: Target| {
        let error = target.check("--console").unwrap_err();
        assert_eq!(error.exit_code(), 2);
        error.chain()
    };
    assert!(check(Target::File(path("."))).contains("is a directory"));
    assert!(check(Target::File(path("no/file"))).contains("No such file"));
    assert!(check(Target::File(path("file/x"))).contains("Not a directory"));
    assert!(check(Target::Socket(path("file"))).contains("is a regular file"));
    assert!(check(Target::Socket(path("no/socket"))).contains("No such file"));
    let long = path(&"x".repeat(108));
    assert!(check(Target::Socket(long)).contains("at most 107"));
    let listener = UnixListener::bind(path("used")).unwrap();
    assert!(check(Target::Socket(path("used"))).contains("already listens"));
    drop(listener);
    assert!(Target::Socket(path("used")).check("--console").is_ok());
    assert!(Target::File(path("file")).check("--console").is_ok());
    assert_eq!(
        std::fs::read(path("file")).unwrap(),
        b"x",
        "looking changes nothing"
    );
}

#[test]
fn a_file_is_emptied_and_takes_the_output() {
    use std::io::{Read, Write};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    std::fs::write(&path, b"old, and longer").unwrap();
    let port = Port::open("--console", "--console", &Target::File(path.clone()))
        .unwrap()
        .unwrap();
    port.output().unwrap().file().write_all(b"new").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"new");
    assert_eq!(port.input().unwrap().read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_stale_socket_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    drop(UnixListener::bind(&path).unwrap());
    let port = Port::open("--serial", "--serial", &Target::Socket(path.clone())).unwrap();
    UnixStream::connect(&path).unwrap();
    drop(port);
    assert!(!path.exists());
}

#[test]
fn two_consoles_cannot_share_a_file_or_a_socket() {
    let file = Target::File("x".into());
    assert!(file.conflicts(&file.clone()));
    assert!(!file.conflicts(&Target::Socket("x".into())));
    assert!(!Target::Stdio.conflicts(&Target::Stdio));
    assert!(!Target::Pty.conflicts(&Target::Pty));
}
