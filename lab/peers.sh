# shellcheck shell=bash
# Other VMMs, as riscv64 programs, for `make bench`.

# fetch_qemu DIRECTORY: Debian's qemu-system-riscv64, the libraries it needs, and their loader as
# ld.so.
fetch_qemu() {
    local directory=$1 work
    [[ -x $directory/qemu-system-riscv64 && $(cat "${directory%/*}/qemu.contents" 2>/dev/null) == "$host_suite" ]] && return
    say "fetching riscv64 QEMU and its libraries"
    work=$(mktemp -d)
    riscv64_lists "$work/apt" "$host_suite"
    retry "downloading QEMU's packages" apt_quiet apt-get "${apt_private[@]}" install --yes --no-install-recommends \
        --download-only qemu-system-riscv
    unpack_libraries "$work/apt/archives" "$work/root"
    rm -rf "$directory" "$directory.new"
    mkdir -p "$directory.new"
    cp "$work/root/usr/bin/qemu-system-riscv64" "$directory.new"
    cp "$(find "$work/root" -name 'ld-linux-riscv64-lp64d.so.1' -print -quit)" "$directory.new/ld.so"
    copy_needed "$work/root" "$directory.new" qemu-system-riscv64
    printf '%s\n' "$host_suite" >"${directory%/*}/qemu.contents"
    mv "$directory.new" "$directory"
    rm -rf "$work"
}

unpack_libraries() {
    local package
    mkdir -p "$2"
    # base-files first: it makes /lib a link into /usr.
    for package in "$1"/base-files_*.deb "$1"/*.deb; do
        [[ ! -e $package ]] || dpkg-deb --fsys-tarfile "$package" |
            tar --extract --keep-directory-symlink --no-same-owner --directory "$2"
    done
}

# copy_needed ROOT DIRECTORY FILE: copies the shared libraries that FILE needs, recursively, from
# ROOT to DIRECTORY.
copy_needed() {
    local root=$1 directory=$2 queue=("$3") file library found
    while [[ ${#queue[@]} -gt 0 ]]; do
        file=${queue[0]}
        queue=("${queue[@]:1}")
        while read -r library; do
            [[ $library != ld-linux* && ! -e $directory/$library ]] || continue
            found=$(find "$root" -name "$library" -print -quit)
            [[ -n $found ]] || fail 1 "$file needs $library, and no package has it"
            cp --dereference "$found" "$directory/$library"
            queue+=("$library")
        done < <(riscv64-linux-gnu-readelf --dynamic "$directory/$file" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
    done
}
