# shellcheck shell=bash
# The Rust that builds for RISC-V: rustup's if it can fetch the two targets, else Debian's with its
# library source.

# Debian's Rust must not be older than the workspace's rust-version.
rust_floor=1.88

: "${HARTVISOR_RUST:=auto}"

linux_target=riscv64gc-unknown-linux-gnu
metal_target=riscv64gc-unknown-none-elf

# rustup_has_targets: the toolchain of this directory has the standard library of both targets.
rustup_has_targets() {
    local libraries
    libraries=$(rustc --print sysroot 2>/dev/null)/lib/rustlib
    [[ -d $libraries/$linux_target/lib && -d $libraries/$metal_target/lib ]]
}

# debian_rust_ready: Debian's cargo with clippy, rustc and the source of the library are installed.
debian_rust_ready() {
    [[ -x /usr/bin/cargo && -x /usr/bin/cargo-clippy && -x /usr/bin/rustc ]] &&
        [[ -d $(/usr/bin/rustc --print sysroot)/lib/rustlib/src/rust/library ]]
}

# rust_choice: `rustup` or `debian`, by HARTVISOR_RUST (rustup, debian, auto) and what is installed.
rust_choice() {
    case $HARTVISOR_RUST in
        rustup | debian) printf '%s\n' "$HARTVISOR_RUST" ;;
        auto) if rustup_has_targets || ! debian_rust_ready; then printf 'rustup\n'; else printf 'debian\n'; fi ;;
        *) fail 1 "HARTVISOR_RUST is '$HARTVISOR_RUST'; expected rustup, debian or auto" ;;
    esac
}

# setup_rust: installs one of them.
setup_rust() {
    case $(rust_choice) in
        rustup) rustup_has_targets || add_rustup_targets ;;
        debian) install_debian_rust ;;
    esac
}

add_rustup_targets() {
    say "adding the Rust targets $linux_target and $metal_target with rustup"
    rustup target add "$linux_target" "$metal_target" >&2 && rustup_has_targets && return
    [[ $HARTVISOR_RUST == auto ]] || fail 1 "rustup could not add the RISC-V targets and HARTVISOR_RUST=rustup allows nothing else"
    say "rustup cannot add the RISC-V targets here; using Debian's Rust for them"
    install_debian_rust
}

# Debian has a second Rust for building browsers: use the newer of the two.
install_debian_rust() {
    debian_rust_ready && return
    command -v apt-get >/dev/null ||
        fail 1 "no Rust with the targets $linux_target and $metal_target: please add them (rustup target add, or your system's packages)"
    apt_update
    local plain web suffix=
    plain=$(package_version rustc)
    web=$(package_version rustc-web)
    if dpkg --compare-versions "${web:-0}" gt "${plain:-0}"; then suffix=-web; plain=$web; fi
    dpkg --compare-versions "${plain:-0}" ge "$rust_floor" ||
        fail 1 "Debian's newest Rust here is ${plain:-absent} and we need $rust_floor: use rustup (rustup target add $linux_target $metal_target)"
    apt_install "a Rust that can build its own library for RISC-V" "rustc$suffix" "cargo$suffix" "rust$suffix-src" "rust$suffix-clippy"
    debian_rust_ready || fail 1 "rustc$suffix, cargo$suffix and rust$suffix-src are installed, but there is no library source for /usr/bin/rustc"
}

package_version() { apt-cache policy "$1" 2>/dev/null | awk '$1 == "Candidate:" && $2 != "(none)" { print $2 }'; }
