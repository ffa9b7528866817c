//! A network card.
#![no_main]

use fuzz::{net, seeds};

libfuzzer_sys::fuzz_target!(init: seeds::on_demand(seeds::steps()), |case: net::Case| {
    net::run(&case);
});
