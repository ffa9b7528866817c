use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;

use super::*;

#[test]
fn a_socket_is_its_users_alone_and_is_removed_with_its_listener() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    drop(UnixListener::bind(&path).unwrap());
    let socket = Socket::listen("--console", &path).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    UnixStream::connect(&path).unwrap();
    drop(socket);
    assert!(!path.exists());
    let socket = Socket::listen("--console", &path).unwrap();
    remove_file(&path).unwrap();
    std::fs::write(&path, "of another").unwrap();
    drop(socket);
    assert_eq!(std::fs::read(&path).unwrap(), b"of another");
}

#[test]
fn a_socket_in_use_is_refused_though_it_accepts_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let refused = || {
        let error = Socket::listen("--console", &path).unwrap_err();
        assert!(error.to_string().contains("already listens"), "{error}");
    };
    let datagrams = UnixDatagram::bind(&path).unwrap();
    refused();
    drop(datagrams);
    let socket = Socket::listen("--console", &path).unwrap();
    // One that nobody accepts, and then as many as the kernel keeps.
    rustix::net::listen(&socket, 0).unwrap();
    let _client = UnixStream::connect(&path).unwrap();
    refused();
}

#[test]
fn of_many_that_find_a_stale_socket_one_takes_its_place_and_keeps_it() {
    for _ in 0..20 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        drop(UnixListener::bind(&path).unwrap());
        let sockets: Vec<_> = std::thread::scope(|scope| {
            let listen = || scope.spawn(|| Socket::listen("--console", &path));
            let threads: Vec<_> = std::iter::repeat_with(listen).take(4).collect();
            let sockets = threads.into_iter().map(|thread| thread.join().unwrap());
            sockets.filter_map(Result::ok).collect()
        });
        let [socket] = sockets.as_slice() else {
            panic!("{} listen", sockets.len());
        };
        let mut client = None;
        while client.is_none() {
            let _connected = UnixStream::connect(&path).unwrap();
            client = socket.accept().unwrap();
        }
    }
}
