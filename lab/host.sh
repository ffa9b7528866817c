# shellcheck shell=bash
# The software of the emulated RISC-V host: Debian's riscv64 kernel, the modules it needs, and busybox.

# riscv64 is an architecture of Debian from this release on.
host_suite=trixie

# What the emulated host uses itself, then what Debian's kernel needs as a guest: disks, a root file system, random numbers.
host_modules=(virtio_mmio virtio_pci 9pnet_virtio 9p kvm virtio_blk ext4 crc32c_generic loop virtio_rng)

# host_ready FOLDER: everything was fetched, from this suite and with these modules.
host_ready() {
    [[ -s $1/vmlinux && -x $1/busybox && -s $1/modules/modules.dep ]] && [[ $(cat "$1/contents" 2>/dev/null) == "$host_suite ${host_modules[*]}" ]]
}

# fetch_host FOLDER: fills FOLDER with vmlinux, busybox and modules/ (uncompressed, with a modules.dep for modprobe).
fetch_host() {
    local folder=$1
    host_ready "$folder" && return
    say "fetching a riscv64 kernel and busybox for the emulated host"
    fetch_kernel "$host_suite" "$folder" busybox-static
}

# fetch_kernel SUITE FOLDER PACKAGE...: the newest kernel of a suite of Debian, as fetch_host leaves it; with the package
# busybox-static also that.
fetch_kernel() {
    local suite=$1 folder=$2 new work kernel package packages busybox
    shift 2
    work=$(mktemp -d)
    riscv64_lists "$work/apt" "$suite"
    # linux-image-riscv64 is an empty package that depends on the newest kernel, and that, from 6.17 on, on its parts.
    kernel=$(apt_depends linux-image-riscv64 '^linux-image-[0-9]' | head -n 1)
    [[ -n $kernel ]] || fail 1 "linux-image-riscv64 of Debian $suite names no kernel package"
    mapfile -t packages < <(apt_depends "$kernel" '^linux-(binary|modules)-[0-9]')
    packages+=("$kernel" "$@")
    retry "downloading ${packages[*]}" download_here "$work" "${packages[@]}"
    say "unpacking $kernel"
    for package in "$work"/*.deb; do
        dpkg-deb --extract "$package" "$work/root"
    done
    new=$folder.new
    rm -rf "$new"
    mkdir -p "$new/modules"
    # In /boot, and from 6.17 on beside the modules.
    cp "$(find "$work/root" -type f -name 'vmlinu[xz]*' | head -n 1)" "$new/vmlinux"
    busybox=$(find "$work/root" -name busybox -type f -perm -u+x | head -n 1)
    [[ -z $busybox ]] || cp "$busybox" "$new/busybox"
    unpack_modules "$work/root" "$new/modules"
    printf '%s\n' "${kernel#linux-image-}" >"$new/release"
    printf '%s\n' "$suite ${host_modules[*]}" >"$new/contents"
    rm -rf "$folder" "$work"
    mv "$new" "$folder"
}

# riscv64_lists FOLDER SUITE: package lists of riscv64 for an imagined machine with nothing installed, in apt_private.
riscv64_lists() {
    mkdir -p "$1"
    : >"$1/status"
    private_lists "$1" "$2" -o Dir::State::status="$1/status" -o APT::Architecture=riscv64 -o APT::Architectures=riscv64
}

# apt_depends PACKAGE PATTERN: those of its dependencies whose names match.
apt_depends() {
    apt-cache "${apt_private[@]}" depends "$1" | awk -v pattern="$2" '$1 == "Depends:" && $2 ~ pattern { print $2 }'
}

download_here() (
    cd "$1"
    shift
    apt_quiet apt-get "${apt_private[@]}" download "$@"
)

# unpack_modules ROOT FOLDER: host_modules and what they depend on, uncompressed, and the list of dependencies as modprobe reads it.
unpack_modules() {
    local root=$1 folder=$2 queue=("${host_modules[@]}") module file depends
    while [[ ${#queue[@]} -gt 0 ]]; do
        module=${queue[0]}
        queue=("${queue[@]:1}")
        [[ -e $folder/$module.ko ]] && continue
        # A file's name may have '-' where the module's has '_'.
        file=$(find "$root" -name "${module//_/[-_]}.ko*" | head -n 1)
        # What is built into the kernel has no file.
        [[ -n $file ]] || continue
        case $file in
            *.xz) xz -dc "$file" ;;
            *) cat "$file" ;;
        esac >"$folder/$module.ko"
        depends=$(tr '\0' '\n' <"$folder/$module.ko" | sed -n 's/^depends=//p')
        printf '%s %s\n' "$module" "${depends//,/ }" >>"$folder/direct"
        # shellcheck disable=SC2206 # a list of names
        queue+=(${depends//,/ })
    done
    # modprobe wants all that a module needs, the nearest first: the lists are closed by walking them.
    awk '{ needs[$1] = ""; for (i = 2; i <= NF; i++) needs[$1] = needs[$1] " " $i; names[NR] = $1 }
        function walk(name, list, n, i, all) {
            n = split(needs[name], list, " "); all = ""
            for (i = 1; i <= n; i++) all = all " " list[i] ".ko" walk(list[i])
            return all
        }
        END { for (i = 1; i <= NR; i++) print names[i] ".ko:" walk(names[i]) }' "$folder/direct" >"$folder/modules.dep"
    rm "$folder/direct"
}
