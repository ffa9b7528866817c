//! The block device against an array of bytes.
#![no_main]

use fuzz::{block, seeds};

libfuzzer_sys::fuzz_target!(init: seeds::on_demand(seeds::steps()), |case: block::Case| {
    block::run(&case);
});
