//! A console with two ports.
#![no_main]

use fuzz::{console, seeds};

libfuzzer_sys::fuzz_target!(init: seeds::on_demand(seeds::steps()), |case: console::Case| {
    console::run(&case);
});
