# shellcheck shell=bash
# The software of the emulated RISC-V host: Debian's riscv64 kernel, the modules it needs, busybox,
# and passt and virtiofsd with their libraries.

# The first release of Debian that supports riscv64.
host_suite=trixie

# Modules for the emulated host, then those for Debian's kernel as a guest: disks, a root file
# system, random numbers, the power key; interfaces of the host, then network cards, sockets and
# memory of a guest.
host_modules=(virtio_mmio virtio_pci 9pnet_virtio 9p kvm virtio_blk ext4 crc32c_generic loop virtio_rng virtio_input evdev
    tun vhost_net dummy bridge virtio_net vmw_vsock_virtio_transport virtio_balloon)

# Programs of the emulated host, the packages of the libraries that they need, and those libraries.
host_packages=(busybox-static passt virtiofsd libc6 libcap-ng0 libgcc-s1 libseccomp2)
host_libraries=(ld-linux-riscv64-lp64d.so.1 libc.so.6 libm.so.6 libcap-ng.so.0 libgcc_s.so.1 libseccomp.so.2)

# host_ready DIRECTORY: everything was fetched, from this suite and with these modules.
host_ready() {
    [[ -s $1/vmlinux && -x $1/busybox && -s $1/modules/modules.dep ]] &&
        [[ $(cat "$1/contents" 2>/dev/null) == "$(host_contents "$host_suite" "${host_packages[@]}")" ]]
}

# host_contents SUITE PACKAGE...: what fetch_kernel notes about its directory.
host_contents() { printf '%s: %s; %s\n' "$1" "${*:2}" "${host_modules[*]}"; }

# fetch_host DIRECTORY: creates vmlinux, busybox, programs/ (passt, virtiofsd, their libraries) and modules/ in
# it (uncompressed, with a modules.dep for modprobe).
fetch_host() {
    local directory=$1
    host_ready "$directory" && return
    say "fetching a riscv64 kernel, busybox, passt and virtiofsd for the emulated host"
    fetch_kernel "$host_suite" "$directory" "${host_packages[@]}"
}

# fetch_kernel SUITE DIRECTORY PACKAGE...: the newest kernel of a Debian suite, as fetch_host does,
# and the programs of host_packages if those are the packages.
fetch_kernel() {
    local suite=$1 directory=$2 new work kernel package packages busybox
    shift 2
    work=$(mktemp -d)
    riscv64_lists "$work/apt" "$suite"
    # linux-image-riscv64 is an empty package that depends on the newest kernel; from 6.17 on that
    # depends on its parts.
    kernel=$(apt_depends linux-image-riscv64 '^linux-image-[0-9]' | head -n 1)
    [[ -n $kernel ]] || fail 1 "linux-image-riscv64 of Debian $suite names no kernel package"
    mapfile -t packages < <(apt_depends "$kernel" '^linux-(binary|modules)-[0-9]')
    packages+=("$kernel" "$@")
    retry "downloading ${packages[*]}" download_here "$work" "${packages[@]}"
    say "unpacking $kernel"
    for package in "$work"/*.deb; do
        dpkg-deb --extract "$package" "$work/root"
    done
    new=$directory.new
    rm -rf "$new"
    mkdir -p "$new/modules"
    # In /boot; from 6.17 on in the directory of the modules.
    cp "$(find "$work/root" -type f -name 'vmlinu[xz]*' | head -n 1)" "$new/vmlinux"
    busybox=$(find "$work/root" -name busybox -type f -perm -u+x | head -n 1)
    [[ -z $busybox ]] || cp "$busybox" "$new/busybox"
    [[ $# -eq 0 ]] || host_programs "$work/root" "$new/programs"
    unpack_modules "$work/root" "$new/modules" "${host_modules[@]}"
    printf '%s\n' "${kernel#linux-image-}" >"$new/release"
    host_contents "$suite" "$@" >"$new/contents"
    rm -rf "$directory" "$work"
    mv "$new" "$directory"
}

# host_programs ROOT DIRECTORY: the programs and their libraries, where they look for them.
host_programs() {
    local file
    mkdir -p "$2"/{bin,lib,usr/libexec}
    cp "$1/usr/bin/passt" "$2/bin"
    cp "$1/usr/libexec/virtiofsd" "$2/usr/libexec"
    for file in "${host_libraries[@]}"; do
        cp --dereference "$(find "$1" -name "$file" | head -n 1)" "$2/lib"
    done
}

# riscv64_lists DIRECTORY SUITE: sets apt_private to package lists of riscv64, for a machine with
# nothing installed.
riscv64_lists() {
    mkdir -p "$1"
    : >"$1/status"
    private_lists "$1" "$2" -o Dir::State::status="$1/status" -o APT::Architecture=riscv64 -o APT::Architectures=riscv64
}

# apt_depends PACKAGE PATTERN: its dependencies whose names match.
apt_depends() {
    apt-cache "${apt_private[@]}" depends "$1" | awk -v pattern="$2" '$1 == "Depends:" && $2 ~ pattern { print $2 }'
}

download_here() (
    cd "$1"
    shift
    apt_quiet apt-get "${apt_private[@]}" download "$@"
)

# unpack_modules ROOT DIRECTORY MODULE...: these modules and their dependencies, uncompressed, with
# modules.dep for modprobe.
unpack_modules() {
    local root=$1 directory=$2 queue=("${@:3}") module file depends
    while [[ ${#queue[@]} -gt 0 ]]; do
        module=${queue[0]}
        queue=("${queue[@]:1}")
        [[ -e $directory/$module.ko ]] && continue
        # A file's name may have '-' where the module's has '_'.
        file=$(find "$root" -name "${module//_/[-_]}.ko*" | head -n 1)
        # A module that is built into the kernel has no file.
        [[ -n $file ]] || continue
        case $file in
            *.xz) xz -dc "$file" ;;
            *) cat "$file" ;;
        esac >"$directory/$module.ko"
        depends=$(tr '\0' '\n' <"$directory/$module.ko" | sed -n 's/^depends=//p')
        printf '%s %s\n' "$module" "${depends//,/ }" >>"$directory/direct"
        # shellcheck disable=SC2206 # a list of names
        queue+=(${depends//,/ })
    done
    # modprobe needs all dependencies of a module, the nearest first: compute the transitive
    # closure.
    awk '{ needs[$1] = ""; for (i = 2; i <= NF; i++) needs[$1] = needs[$1] " " $i; names[NR] = $1 }
        function walk(name, list, n, i, all) {
            n = split(needs[name], list, " "); all = ""
            for (i = 1; i <= n; i++) all = all " " list[i] ".ko" walk(list[i])
            return all
        }
        END { for (i = 1; i <= NR; i++) print names[i] ".ko:" walk(names[i]) }' "$directory/direct" >"$directory/modules.dep"
    rm "$directory/direct"
}
