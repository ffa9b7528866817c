# shellcheck shell=bash
# VMMs of others, as riscv64 programs, for `make bench`.

# fetch_qemu FOLDER: Debian's qemu-system-riscv64, the libraries it needs and their loader as ld.so, all in one folder.
fetch_qemu() {
    local folder=$1 work
    [[ -x $folder/qemu-system-riscv64 && $(cat "${folder%/*}/qemu.contents" 2>/dev/null) == "$host_suite" ]] && return
    say "fetching riscv64 QEMU and its libraries"
    work=$(mktemp -d)
    riscv64_lists "$work/apt" "$host_suite"
    retry "downloading QEMU's packages" apt_quiet apt-get "${apt_private[@]}" install --yes --no-install-recommends \
        --download-only qemu-system-riscv
    unpack_libraries "$work/apt/archives" "$work/root"
    rm -rf "$folder" "$folder.new"
    mkdir -p "$folder.new"
    cp "$work/root/usr/bin/qemu-system-riscv64" "$folder.new"
    cp "$(find "$work/root" -name 'ld-linux-riscv64-lp64d.so.1' -print -quit)" "$folder.new/ld.so"
    copy_needed "$work/root" "$folder.new" qemu-system-riscv64
    printf '%s\n' "$host_suite" >"${folder%/*}/qemu.contents"
    mv "$folder.new" "$folder"
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

# copy_needed ROOT FOLDER FILE: the shared libraries that FILE needs, and those that they need, from ROOT to FOLDER.
copy_needed() {
    local root=$1 folder=$2 queue=("$3") file library found
    while [[ ${#queue[@]} -gt 0 ]]; do
        file=${queue[0]}
        queue=("${queue[@]:1}")
        while read -r library; do
            [[ $library != ld-linux* && ! -e $folder/$library ]] || continue
            found=$(find "$root" -name "$library" -print -quit)
            [[ -n $found ]] || fail 1 "$file needs $library, and no package has it"
            cp --dereference "$found" "$folder/$library"
            queue+=("$library")
        done < <(riscv64-linux-gnu-readelf --dynamic "$folder/$file" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
    done
}
