# shellcheck shell=bash
# Empty roots of Debian, made by debootstrap, for what must work on a machine with nothing else.

# space_for GIGABYTES: fails if there is less for a root and what is built in it.
space_for() {
    local directory=${TMPDIR:-/var/tmp} free
    free=$(($(df --output=avail --block-size=1M "$directory" | tail -n 1) / 1024))
    [[ $free -ge $1 ]] || fail 1 "$directory has $free GB free, and this needs $1: set TMPDIR to a directory with more"
}

# clean_root SUITE [OPTION]...: makes an empty root of a Debian release in $root, with debootstrap's
# options. It is removed when the script ends or makes another.
clean_root() {
    local suite=$1 mirror keyring
    shift
    apt_install "it makes empty roots of Debian" debootstrap
    [[ -e /usr/share/debootstrap/scripts/$suite ]] ||
        fail 2 "debootstrap knows no Debian '$suite': expected the codename of a release, such as bookworm or trixie"
    mirror=$(debian_mirror)
    [[ -n $mirror ]] || fail 1 "no Debian mirror in this machine's package sources: set HARTVISOR_DEBIAN_MIRROR to the URI of one"
    keyring=$(debian_keyring "$mirror")
    remove_root
    trap remove_root EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    root_directory=$(mktemp -d -p "${TMPDIR:-/var/tmp}" hartvisor-root.XXXXXX)
    root=$root_directory/root
    say "making an empty root of Debian $suite"
    retry "making a root of Debian $suite" bootstrap "$suite" "$mirror" ${keyring:+"--keyring=$keyring"} "$@"
    package_sources "$suite" "$mirror" | as_root tee "$root/etc/apt/sources.list" >/dev/null
    as_root cp /etc/resolv.conf /etc/hosts "$root/etc"
    # Packages must not start services in it.
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$root/usr/sbin/policy-rc.d" >/dev/null
    as_root chmod +x "$root/usr/sbin/policy-rc.d"
}

remove_root() {
    [[ -z ${root_directory:-} ]] || as_root rm -rf --one-file-system "$root_directory"
}

bootstrap() {
    local suite=$1 mirror=$2
    shift 2
    as_root rm -rf --one-file-system "$root"
    PATH=$PATH:/usr/sbin:/sbin apt_quiet as_root debootstrap --variant=minbase "$@" "$suite" "$root" "$mirror"
}

# package_sources SUITE MIRROR: what Debian's installer writes. The updates of security come from
# where this machine gets its own.
package_sources() {
    local security
    printf 'deb %s %s main\n' "$2" "$1" "$2" "$1-updates"
    security=$(apt-get indextargets --no-release-info --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' |
        awk '$1 ~ /-security$/ { print $2; exit }')
    [[ -z $security ]] || printf 'deb %s %s-security main\n' "$security" "$1"
}

# in_root COMMAND: bash executes it in the root as root, with namespaces of its own: no mount and no
# process of it is left behind. Its environment is that of a new login, and the machine's proxies.
in_root() {
    as_root env -i HOME=/root TERM="${TERM:-dumb}" LANG=C.UTF-8 SHELL=/bin/bash USER=root DEBIAN_FRONTEND=noninteractive \
        PATH=/root/.cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        ${http_proxy:+"http_proxy=$http_proxy"} ${https_proxy:+"https_proxy=$https_proxy"} ${no_proxy:+"no_proxy=$no_proxy"} \
        unshare --mount --pid --fork --kill-child bash -euc "$(declare -f enter); enter \"\$@\"" enter "$root" "$1"
}

# enter ROOT COMMAND: pivots to ROOT and executes the command. After chroot(2) there would be no user
# namespaces.
enter() {
    local root=$1 command=$2
    mount --bind "$root" "$root"
    mount -t proc proc "$root/proc"
    mount -t sysfs sysfs "$root/sys"
    mount --rbind /dev "$root/dev"
    cd "$root"
    mkdir -p .old
    pivot_root . .old
    umount --lazy /.old
    rmdir /.old
    cd "$HOME"
    # This is the first process of the namespace, on which only signals with a handler have an effect:
    # the command must be another.
    trap 'exit 130' INT
    trap 'exit 143' TERM
    bash -c "$command"
}

# trust_as_this_machine: certificates that the administrator of this machine added to Debian's.
trust_as_this_machine() {
    [[ -d /usr/local/share/ca-certificates ]] || return 0
    as_root cp --recursive --dereference /usr/local/share/ca-certificates/. "$root/usr/local/share/ca-certificates"
    in_root 'update-ca-certificates >/dev/null 2>&1'
}
