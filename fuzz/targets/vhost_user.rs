//! A disk behind a socket.
#![no_main]

use fuzz::{seeds, vhost_user};

libfuzzer_sys::fuzz_target!(init: seeds::on_demand(seeds::steps()), |case: vhost_user::Case| {
    vhost_user::run(&case);
});
