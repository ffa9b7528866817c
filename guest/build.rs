//! Sets the linker script of the bare-metal programs; every other target links as usual.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=linker.ld");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let directory = env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| ".".into());
        println!("cargo::rustc-link-arg-bins=-T{directory}/linker.ld");
    }
}
