//! What is benchmarked: each case as a closure that does its work once, for criterion
//! (`benches/micro.rs`), which takes the time, and for `repeat`, whose instructions callgrind
//! counts (`bench/instructions`).

#![allow(
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up has nothing to say"
)]

mod block;
mod boot;
mod queue;
mod ring;

/// A case.
pub struct Case {
    /// What it is.
    pub name: String,
    /// How often one call does it.
    pub times: u64,
    /// Does it.
    pub run: Box<dyn FnMut()>,
}

/// All cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for shape in ring::SHAPES {
        cases.push(queue::ours(shape));
        cases.push(queue::virtio_queue(shape));
    }
    cases.push(block::request());
    cases.extend(boot::cases());
    cases
}
