//! A disk behind its registers.
#![no_main]

use fuzz::{mmio, seeds};

libfuzzer_sys::fuzz_target!(init: seeds::on_demand(seeds::steps()), |case: mmio::Case| {
    mmio::run(&case);
});
