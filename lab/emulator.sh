# shellcheck shell=bash
# The QEMU that runs the emulated host. 7.2 hangs with an AIA and with -icount, so 8.0 is the
# minimum.

emulator=qemu-system-riscv64
emulator_floor=8.0

# emulator_version: "10.0.2", or nothing if there is no QEMU.
emulator_version() { { "$emulator" --version 2>/dev/null || true; } | sed -n 's/^QEMU emulator version \([0-9.]*\).*/\1/p'; }

# at_least VERSION FLOOR, both as "major.minor…".
at_least() {
    local -a have want
    IFS=. read -ra have <<<"$1"
    IFS=. read -ra want <<<"$2"
    ((have[0] > want[0] || (have[0] == want[0] && ${have[1]:-0} >= ${want[1]:-0})))
}

# emulator_ready: QEMU is installed and new enough.
emulator_ready() {
    local version
    version=$(emulator_version)
    [[ -n $version ]] && at_least "$version" "$emulator_floor"
}

setup_emulator() {
    emulator_ready && return
    local version package codename
    version=$(emulator_version)
    command -v apt-get >/dev/null ||
        fail 1 "QEMU is ${version:-absent}: please install $emulator $emulator_floor or newer, with OpenSBI"
    apt_update
    for package in qemu-system-riscv qemu-system-misc; do
        version=$(package_version "$package")
        # A package's version may begin with an epoch.
        if [[ -n $version ]] && at_least "${version#*:}" "$emulator_floor"; then
            apt_install "the emulator" "$package" opensbi
            break
        fi
    done
    emulator_ready || emulator_from_backports
    emulator_ready ||
        fail 1 "QEMU is $(emulator_version) and we need $emulator_floor or newer: older ones hang with aia= and -icount"
}

# The release's own QEMU is too old; its backports have a newer one. Their lists are read only for
# this call.
emulator_from_backports() {
    local codename work
    # shellcheck source=/dev/null
    codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
    work=$(mktemp -d)
    say "installing QEMU from $codename-backports: $codename's own is older than $emulator_floor"
    private_lists "$work" "$codename $codename-updates $codename-backports"
    retry "installing QEMU from backports" apt_quiet as_root apt-get "${apt_private[@]}" \
        install -y --no-install-recommends -t "$codename-backports" qemu-system-riscv opensbi
    rm -rf "$work"
}
