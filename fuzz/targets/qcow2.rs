//! Damaged qcow2 images.
#![no_main]

use fuzz::{qcow2, seeds};

libfuzzer_sys::fuzz_target!(init: {
    seeds::on_demand(seeds::steps());
    qcow2::prepare();
}, |case: qcow2::Case| {
    qcow2::run(&case);
});
