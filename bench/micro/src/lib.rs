//! The benchmark cases. Each is a closure that does its work once. Criterion (`benches/micro.rs`)
//! measures their time, and callgrind counts their instructions through `repeat`
//! (`bench/instructions`).

#![allow(
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up has nothing to say"
)]

mod block;
mod boot;
mod queue;
mod ring;

/// A benchmark case.
pub struct Case {
    /// Its name.
    pub name: String,
    /// Operations per call.
    pub times: u64,
    /// Runs it.
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
