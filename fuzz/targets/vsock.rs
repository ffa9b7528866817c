//! A socket device with connections of the guest and of the host.
#![no_main]

use fuzz::{seeds, vsock};

libfuzzer_sys::fuzz_target!(init: seeds::on_demand(seeds::steps()), |case: vsock::Case| {
    vsock::run(&case);
});
