# shellcheck shell=bash
# Directories of this machine that the emulated host mounts by 9p, at the same absolute paths.

share_paths=() # directories
bind_files=()  # files whose directory cannot be mounted at its own path

# share_directory DIRECTORY: unless it is below one that is shared already.
share_directory() {
    local path real share
    path=$(cd "$1" 2>/dev/null && pwd) || fail "$lab_failed" "cannot open the directory '$1'"
    real=$(cd "$path" && pwd -P)
    for share in "${share_paths[@]}"; do
        # The same path below a share is the same directory, unless a symbolic link leads elsewhere.
        [[ $path/ == "$share"/* && $real == "$(cd "$share" && pwd -P)${path#"$share"}" ]] && return
    done
    share_paths+=("$path")
}

# share_file FILE: its directory, and its target if it is a symbolic link.
share_file() {
    local file=$1 directory
    [[ -e $file ]] || fail "$lab_failed" "--file '$file': no such file"
    if [[ -d $file ]]; then
        needed_inside "$(cd "$file" && pwd)" && fail "$lab_failed" "--file '$file': the emulated host has its own; name a directory below it"
        share_directory "$file"
        return
    fi
    directory=$(cd "$(dirname "$file")" && pwd)
    if needed_inside "$directory"; then
        bind_files+=("$directory/$(basename "$file")")
    else
        share_directory "$directory"
    fi
    [[ ! -L $file ]] || share_file "$(readlink -f "$file")"
}

# needed_inside DIRECTORY: the emulated host has and needs its own.
needed_inside() {
    case $1 in
        / | /tmp | /run | /dev/shm) return 0 ;;
        /tmp/* | /dev/shm/*) return 1 ;;
        /bin | /bin/* | /dev | /dev/* | /lab | /lab/* | /lib | /lib/* | /proc | /proc/* | /sys | /sys/*) return 0 ;;
        *) return 1 ;;
    esac
}

# share_devices: sets share_options, for QEMU, and share_commands, for the guest. A directory comes
# before those below it.
share_devices() {
    local index=0 path
    share_options=()
    share_commands=''
    while IFS= read -r path; do
        [[ -n $path ]] || continue
        add_share "$index" "$path"
        share_commands+="share $index $(quote "$path")"$'\n'
        index=$((index + 1))
    done < <(printf '%s\n' "${share_paths[@]}" | sort)
    for path in "${bind_files[@]}"; do
        add_share "$index" "$(dirname "$path")"
        share_commands+="bind $index $(quote "$path")"$'\n'
        index=$((index + 1))
    done
}

add_share() {
    # QEMU reads two commas as one.
    share_options+=(-fsdev "local,id=share$1,path=${2//,/,,},security_model=none,multidevs=remap"
        -device "virtio-9p-pci,fsdev=share$1,mount_tag=share$1")
}

# quote TEXT: quotes it as one word of a POSIX shell.
quote() { printf "'%s'" "${1//\'/\'\\\'\'}"; }
