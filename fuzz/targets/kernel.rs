//! Kernel files, packed and plain.
#![no_main]

use fuzz::{kernel, seeds};

libfuzzer_sys::fuzz_target!(init: seeds::on_demand(kernel::seeds()), |case: &[u8]| {
    kernel::run(case);
});
