//! The split queue against a model of it.
#![no_main]

use fuzz::{queue, seeds};

libfuzzer_sys::fuzz_target!(init: seeds::on_demand(seeds::steps()), |case: queue::Case| queue::run(&case));
