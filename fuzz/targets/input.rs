//! The power key's device, compared with a model.
#![no_main]

use fuzz::{input, seeds};

libfuzzer_sys::fuzz_target!(init: seeds::on_demand(seeds::steps()), |case: input::Case| {
    input::run(&case);
});
