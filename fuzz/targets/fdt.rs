//! A device tree of the user's own.
#![no_main]

use fuzz::{fdt, seeds};

libfuzzer_sys::fuzz_target!(init: seeds::on_demand(fdt::seeds()), |case: &[u8]| fdt::run(case));
