# shellcheck shell=bash
# Guests by other authors: U-Boot, and for the long tests a newer kernel and a Debian root file
# system.

# Debian's next release, whose kernel is at most some months old.
next_suite=forky

# The root file system: Debian's essential packages, systemd, and programs of the network, with their
# dependencies.
debian_suite=trixie
debian_packages=(
    base-files base-passwd bash coreutils dash diffutils findutils grep gzip hostname init libc-bin login mount ncurses-base
    ncurses-bin passwd perl-base sed sysvinit-utils tar util-linux systemd-sysv dbus e2fsprogs kmod libpam-systemd procps udev
    iperf3 openssh-server
)

fetch_next_kernel() {
    local directory=$1
    [[ -s $directory/vmlinux && $(cat "$directory/contents" 2>/dev/null) == "$(host_contents "$next_suite")" ]] && return
    say "fetching the riscv64 kernel of Debian $next_suite"
    fetch_kernel "$next_suite" "$directory"
}

u_boot_ready() { [[ -s $1/u-boot && -s $1/u-boot.bin ]]; }

# fetch_u_boot DIRECTORY: u-boot (ELF) and u-boot.bin, built for S-mode on QEMU's virt machine.
fetch_u_boot() {
    local directory=$1 work
    u_boot_ready "$directory" && return
    say "fetching U-Boot"
    work=$(mktemp -d)
    riscv64_lists "$work/apt" "$debian_suite"
    retry "downloading u-boot-qemu" download_here "$work" u-boot-qemu
    dpkg-deb --extract "$work"/*.deb "$work/root"
    mkdir -p "$directory.new"
    cp "$work"/root/usr/lib/u-boot/qemu-riscv64_smode/{u-boot.bin,uboot.elf} "$directory.new"
    mv "$directory.new/uboot.elf" "$directory.new/u-boot"
    rm -rf "$directory" "$work"
    mv "$directory.new" "$directory"
}

# fetch_debian DIRECTORY: disk, an ext4 file system of 1 GiB to be mounted as the root. root has no
# password.
fetch_debian() {
    local contents="$debian_suite ${debian_packages[*]}"
    has_disk "$1" "$contents" ||
        fetch_disk "$1" "$contents" "a small Debian $debian_suite" "${debian_packages[*]}" debian_disk
}

# has_disk DIRECTORY CONTENTS: whether the disk there was made with these contents.
has_disk() { [[ -s $1/disk && $(cat "$1/contents" 2>/dev/null) == "$2" ]]; }

# fetch_disk DIRECTORY CONTENTS TITLE PACKAGES MAKE...: downloads Debian's packages, and executes MAKE
# WORK DISK, which makes the disk from those in WORK/apt/archives.
fetch_disk() {
    local directory=$1 contents=$2 title=$3 packages=$4 work
    shift 4
    work=$(mktemp -d)
    say "fetching the packages of $title"
    riscv64_lists "$work/apt" "$debian_suite"
    # shellcheck disable=SC2086 # a list of names
    retry "downloading Debian's packages" apt_quiet apt-get "${apt_private[@]}" install --yes --no-install-recommends \
        --download-only $packages
    rm -rf "$directory.new"
    mkdir -p "$directory.new"
    say "making its disk"
    # Files must belong to root, also if another user runs this.
    if [[ $EUID -eq 0 ]]; then
        "$@" "$work" "$directory.new/disk"
    else
        apt_install "files of root in the disk of a guest" fakeroot
        fakeroot bash -euo pipefail -c '. "$1/host.sh"; . "$1/guests.sh"; . "$1/cloud.sh"; "${@:2}"' make \
            "$(dirname "${BASH_SOURCE[0]}")" "$@" "$work" "$directory.new/disk"
    fi
    printf '%s\n' "$contents" >"$directory.new/contents"
    rm -rf "$directory" "$work"
    mv "$directory.new" "$directory"
}

# debian_disk WORK DISK
debian_disk() {
    local work=$1 disk=$2 root=$1/root
    unpack_debian "$work/apt/archives" "$root"
    configure_debian "$root"
    truncate --size=1G "$disk"
    PATH=$PATH:/sbin:/usr/sbin mkfs.ext4 -q -L debian -d "$root" "$disk"
}

# unpack_debian PACKAGES ROOT
unpack_debian() {
    local package root=$2
    mkdir -p "$root"
    # base-files first: it makes /bin and /lib links into /usr, which other packages must not
    # replace.
    for package in "$1"/base-files_*.deb "$1"/*.deb; do
        dpkg-deb --fsys-tarfile "$package" | tar --extract --keep-directory-symlink --no-same-owner --directory "$root"
    done
}

# configure_debian ROOT: does the work of the packages' scripts, as far as a boot to a login needs
# it. The scripts need programs of the guest, and cannot run here.
configure_debian() {
    local root=$1 kind
    # base-passwd: the accounts. root has no password.
    sed 's/^root:[^:]*:/root::/' "$root/usr/share/base-passwd/passwd.master" >"$root/etc/passwd"
    cp "$root/usr/share/base-passwd/group.master" "$root/etc/group"
    # libpam-runtime: accounts come from /etc/passwd.
    for kind in auth account password session; do
        printf '%s required pam_unix.so %s\n' "$kind" "$([[ $kind == auth ]] && echo nullok)" >"$root/etc/pam.d/common-$kind"
    done
    cp "$root/etc/pam.d/common-session" "$root/etc/pam.d/common-session-noninteractive"
    printf 'session optional pam_systemd.so\n' >>"$root/etc/pam.d/common-session"
    # systemd: without an id this would be a first boot, which asks questions.
    printf '%032x\n' 1 >"$root/etc/machine-id"
    printf 'debian-guest\n' >"$root/etc/hostname"
    printf '/dev/vda / ext4 errors=remount-ro 0 1\n' >"$root/etc/fstab"
    ln -sf /usr/share/zoneinfo/UTC "$root/etc/localtime"
}

# install_recipe: the packages that docs/debian.md names. On a machine without systemd, also what
# systemd does with them: the kernel runs RISC-V programs by QEMU.
install_recipe() {
    local binfmt=/proc/sys/fs/binfmt_misc
    apt_install "docs/debian.md makes a guest's disk with them" mmdebstrap fakeroot uidmap arch-test
    [[ $(uname -m) != riscv64 ]] || return 0
    apt_install "mmdebstrap runs the guest's programs by it" qemu-user-static
    [[ -e $binfmt/register ]] || as_root mount -t binfmt_misc none "$binfmt"
    [[ -e $binfmt/qemu-riscv64 ]] || as_root tee "$binfmt/register" </usr/lib/binfmt.d/qemu-riscv64.conf >/dev/null
}
