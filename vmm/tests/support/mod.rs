//! What the tests of the program share. Each test binary uses a part of it.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap
)]

pub mod conform;
pub mod echo;
pub mod efi;
pub mod folder;
pub mod kernel;
pub mod lab;
pub mod linux;
pub mod packed;
pub mod program;
pub mod pty;
pub mod script;
pub mod session;
pub mod tap;
pub mod tested;
