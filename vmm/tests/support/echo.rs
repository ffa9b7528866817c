//! Programs of the host that send back what a guest sends through its socket device.

use std::io::copy;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;

/// Sends back what it receives on each connection to a socket. Or dials a port of the guest, and
/// wants to get back what it sends.
pub const PROGRAM: &str = r#"
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static char sent[30000], got[65536];

static int dial(const char *port, struct sockaddr_un *un) {
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    char byte = 0, first = 0;
    if (connect(fd, (struct sockaddr *)un, sizeof *un)) return 2;
    dprintf(fd, "CONNECT %s\n", port);
    while (byte != '\n') {
        if (read(fd, &byte, 1) != 1) return close(fd), 2;
        if (!first) first = byte;
    }
    for (size_t i = 0; i < sizeof sent; i++) sent[i] = i ^ i >> 8;
    if (first != 'O' || write(fd, sent, sizeof sent) != sizeof sent) return 1;
    shutdown(fd, SHUT_WR);
    size_t len = 0;
    for (ssize_t count; (count = read(fd, got + len, sizeof got - len)) > 0; len += count);
    printf("dial: %zu bytes, %s\n", len, len == sizeof sent && !memcmp(got, sent, len) ? "the same" : "others");
    return 0;
}

int main(int argc, char **argv) {
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    strcpy(un.sun_path, argv[1]);
    if (argc > 2) {
        // Until the guest listens.
        for (;;) {
            int status = dial(argv[2], &un);
            if (status != 2) return status;
            usleep(100000);
        }
    }
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&un, sizeof un) || listen(listener, 100)) return 1;
    signal(SIGCHLD, SIG_IGN);
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fd >= 0 && fork() == 0) {
            close(listener);
            for (ssize_t count; (count = read(fd, got, sizeof got)) > 0; )
                for (ssize_t done = 0, some; done < count; done += some)
                    if ((some = write(fd, got + done, count - done)) <= 0) return 0;
            return 0;
        }
        close(fd);
    }
}
"#;

/// Does the same on this machine, in threads, as long as this process lives.
pub fn serve(path: &Path) {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            thread::spawn(move || {
                let _ = copy(&mut &stream, &mut &stream);
            });
        }
    });
}
