# shellcheck shell=bash
# The emulated host's initramfs: a constant part, created once, with the job appended to it.

# pack DIRECTORY: a cpio archive of its content, owned by root.
pack() (cd "$1" && find . -mindepth 1 | LC_ALL=C sort | cpio --create --format=newc --owner=0:0 --quiet)

# base_initramfs ARCHIVE WORK: creates ARCHIVE unless it is newer than its sources. Several lab/run
# may do so at the same time.
base_initramfs() {
    local archive=$1 work=$2 source current=1
    for source in "$lab/init" "$lab/session" "$lab/initramfs.sh" "$host/release"; do
        [[ $archive -nt $source ]] || current=''
    done
    [[ -z $current ]] || return 0
    local modules
    modules=$work/lib/modules/$(cat "$host/release")
    mkdir -p "$work"/{bin,etc,lab,usr} "$modules"
    # Programs that drop root's privileges look for this user.
    printf '%s:/:/bin/sh\n' 'root:x:0:0:root' 'nobody:x:65534:65534:nobody' >"$work/etc/passwd"
    cp "$lab/init" "$work/init"
    cp "$lab/session" "$work/lab/session"
    cp "$lab/cache/host/busybox" "$work/bin/busybox"
    cp --recursive "$lab/cache/host/programs/." "$work"
    # For the "#!/bin/sh" of /init, which creates the other links at its start.
    ln -s busybox "$work/bin/sh"
    cp "$host"/modules/* "$modules"
    pack "$work" >"$work.cpio"
    mv "$work.cpio" "$archive.$$"
    mv "$archive.$$" "$archive"
}

# job_script COMMAND...: the script for /init and /lab/session: two variables, and the functions
# `shares` and `job`.
job_script() {
    local name
    printf "terminal='%s'\nmark='%s'\n" "$terminal" "$mark"
    printf 'shares() {\n:\n%s}\njob() {\n' "$share_commands"
    for name in $(compgen -e | grep -E '^(TERM|RUST_.*|HARTVISOR_.*)$'); do
        printf 'export %s=%s\n' "$name" "$(quote "${!name}")"
    done
    # shellcheck disable=SC2016 # the guest's PATH
    printf 'export PATH=%s:$PATH\n' "$(quote "$builds")"
    printf 'cd %s || exit 126\nexec' "$(quote "$PWD")"
    for name in "$@"; do
        printf ' %s' "$(quote "$name")"
    done
    printf '\n}\n'
}
