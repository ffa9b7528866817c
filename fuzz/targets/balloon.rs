//! The memory balloon, compared with a model.
#![no_main]

use fuzz::{balloon, seeds};

libfuzzer_sys::fuzz_target!(init: seeds::on_demand(seeds::steps()), |case: balloon::Case| {
    balloon::run(&case);
});
