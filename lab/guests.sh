# shellcheck shell=bash
# Guests that others wrote: U-Boot, and for the long tests a newer kernel and a Debian root file system.

# Where Debian prepares its next release, with a kernel that is some months old at most.
next_suite=forky

# The root file system: what a Debian has in any case, and systemd. Their dependencies follow.
debian_suite=trixie
debian_packages=(
    base-files base-passwd bash coreutils dash diffutils findutils grep gzip hostname init libc-bin login mount ncurses-base
    ncurses-bin passwd perl-base sed sysvinit-utils tar util-linux systemd-sysv dbus e2fsprogs kmod libpam-systemd procps udev
)

fetch_next_kernel() {
    local folder=$1
    [[ -s $folder/vmlinux && $(cat "$folder/contents" 2>/dev/null) == "$next_suite ${host_modules[*]}" ]] && return
    say "fetching the riscv64 kernel of Debian $next_suite"
    fetch_kernel "$next_suite" "$folder"
}

u_boot_ready() { [[ -s $1/u-boot && -s $1/u-boot.bin ]]; }

# fetch_u_boot FOLDER: u-boot (ELF) and u-boot.bin, built for S-mode on QEMU's virt machine.
fetch_u_boot() {
    local folder=$1 work
    u_boot_ready "$folder" && return
    say "fetching U-Boot"
    work=$(mktemp -d)
    riscv64_lists "$work/apt" "$debian_suite"
    retry "downloading u-boot-qemu" download_here "$work" u-boot-qemu
    dpkg-deb --extract "$work"/*.deb "$work/root"
    mkdir -p "$folder.new"
    cp "$work"/root/usr/lib/u-boot/qemu-riscv64_smode/{u-boot.bin,uboot.elf} "$folder.new"
    mv "$folder.new/uboot.elf" "$folder.new/u-boot"
    rm -rf "$folder" "$work"
    mv "$folder.new" "$folder"
}

# fetch_debian FOLDER: disk, an ext4 file system of 1 GiB to be mounted as the root; root logs in without a password.
fetch_debian() {
    local folder=$1 work
    [[ -s $folder/disk && $(cat "$folder/contents" 2>/dev/null) == "$debian_suite ${debian_packages[*]}" ]] && return
    work=$(mktemp -d)
    say "fetching the packages of a small Debian $debian_suite"
    riscv64_lists "$work/apt" "$debian_suite"
    retry "downloading Debian's packages" apt_quiet apt-get "${apt_private[@]}" install --yes --no-install-recommends \
        --download-only "${debian_packages[@]}"
    rm -rf "$folder.new"
    mkdir -p "$folder.new"
    say "making its file system"
    # Files must belong to root, whoever runs this.
    if [[ $EUID -eq 0 ]]; then
        debian_disk "$work/apt/archives" "$work/root" "$folder.new/disk"
    else
        apt_install "files of root in the disk of a guest" fakeroot
        export -f debian_disk configure_debian
        fakeroot bash -euc 'debian_disk "$@"' debian_disk "$work/apt/archives" "$work/root" "$folder.new/disk"
    fi
    printf '%s\n' "$debian_suite ${debian_packages[*]}" >"$folder.new/contents"
    rm -rf "$folder" "$work"
    mv "$folder.new" "$folder"
}

# debian_disk PACKAGES ROOT DISK: unpacks the packages into ROOT, configures that and makes DISK of it.
debian_disk() {
    local package root=$2
    mkdir -p "$root"
    # base-files first: it makes /bin and /lib links into /usr, and what follows must not replace them.
    for package in "$1"/base-files_*.deb "$1"/*.deb; do
        dpkg-deb --fsys-tarfile "$package" | tar --extract --keep-directory-symlink --no-same-owner --directory "$root"
    done
    configure_debian "$root"
    truncate --size=1G "$3"
    PATH=$PATH:/sbin:/usr/sbin mkfs.ext4 -q -L debian -d "$root" "$3"
}

# configure_debian ROOT: what the packages' scripts would have done, as far as a boot to a login needs it. They are programs of the
# guest and cannot run here.
configure_debian() {
    local root=$1 kind
    # base-passwd: the accounts. root has no password.
    sed 's/^root:[^:]*:/root::/' "$root/usr/share/base-passwd/passwd.master" >"$root/etc/passwd"
    cp "$root/usr/share/base-passwd/group.master" "$root/etc/group"
    # libpam-runtime: who you are is what /etc/passwd says.
    for kind in auth account password session; do
        printf '%s required pam_unix.so %s\n' "$kind" "$([[ $kind == auth ]] && echo nullok)" >"$root/etc/pam.d/common-$kind"
    done
    cp "$root/etc/pam.d/common-session" "$root/etc/pam.d/common-session-noninteractive"
    printf 'session optional pam_systemd.so\n' >>"$root/etc/pam.d/common-session"
    # systemd: with an id this is not a first boot, which would ask questions.
    printf '%032x\n' 1 >"$root/etc/machine-id"
    printf 'debian-guest\n' >"$root/etc/hostname"
    printf '/dev/vda / ext4 errors=remount-ro 0 1\n' >"$root/etc/fstab"
    ln -sf /usr/share/zoneinfo/UTC "$root/etc/localtime"
}
