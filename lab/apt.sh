# shellcheck shell=bash
# Debian packages: those of this machine, and foreign ones in private package lists.
#
# Only apt_install changes the machine, and only by installing packages. Everything else happens in
# the given directories, with a mirror and a keyring from the machine's own sources.

# apt_quiet COMMAND...: prints the output only if the command fails.
apt_quiet() {
    local log
    log=$(mktemp)
    if ! DEBIAN_FRONTEND=noninteractive "$@" >"$log" 2>&1; then
        tail -n 15 "$log" >&2
        rm -f "$log"
        return 1
    fi
    rm -f "$log"
}

as_root() {
    if [[ $EUID -eq 0 ]]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo -E "$@"
    else
        fail 1 "this needs root and there is no sudo; run as root: $*"
    fi
}

# installed PACKAGE: true also if the package is of another architecture.
installed() { [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]; }

# The machine's own lists are refreshed once: old lists name files that the mirror no longer has.
apt_update() {
    [[ -n ${apt_updated:-} ]] && return
    say "refreshing this machine's package lists"
    # A third-party source may be unreachable. This fails only if the packages cannot be installed.
    apt_quiet as_root apt-get update || say "some package lists could not be refreshed; using the others"
    apt_updated=1
}

# apt_install WHY PACKAGE...: installs the missing packages, from the machine's own sources.
apt_install() {
    local why=$1 package missing=()
    shift
    for package in "$@"; do
        installed "$package" || missing+=("$package")
    done
    [[ ${#missing[@]} -eq 0 ]] && return
    command -v apt-get >/dev/null || fail 1 "this is not a Debian-like system: please install what Debian calls ${missing[*]} ($why)"
    apt_update
    say "installing ${missing[*]}: $why"
    retry "installing ${missing[*]}" apt_install_once "${missing[@]}"
}

apt_install_once() {
    apt_quiet as_root apt-get install -y --no-install-recommends "$@" && return
    apt_updated=
    apt_update
    return 1
}

# debian_mirror: the URI from which this machine gets its own release of Debian.
debian_mirror() {
    local codename
    if [[ -n ${HARTVISOR_DEBIAN_MIRROR:-} ]]; then
        printf '%s\n' "$HARTVISOR_DEBIAN_MIRROR"
        return
    fi
    # shellcheck source=/dev/null
    codename=$(. /etc/os-release && [[ $ID == debian ]] && printf '%s' "${VERSION_CODENAME:-}") || true
    apt-get indextargets --no-release-info --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
        awk -v codename="$codename" '$2 == "main" && ($1 == codename || $1 ~ /^(stable|testing|unstable|sid)$/) { print $3; exit }'
}

# debian_keyring MIRROR: the keys of that source; Debian's own keys unless the machine's sources
# name others.
debian_keyring() {
    local mirror=$1 named
    named=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null |
        awk -v RS= -v mirror="${mirror%/}" 'index($0, mirror) && match($0, /[Ss]igned-[Bb]y[:=][ \t]*\/[^] \t\n]+/) {
            field = substr($0, RSTART, RLENGTH); sub(/^[^\/]*/, "", field); print field; exit }')
    for named in "$named" /usr/share/keyrings/debian-archive-keyring.gpg; do
        [[ -r $named ]] && printf '%s\n' "$named" && return
    done
    return 0
}

# private_lists DIRECTORY SUITES OPTION...: reads separate package lists from SUITES. Sets the array
# apt_private to the options that make apt-get use them.
private_lists() {
    local directory=$1 suites=$2 mirror keyring
    shift 2
    mirror=$(debian_mirror)
    [[ -n $mirror ]] || fail 1 "no Debian mirror in this machine's package sources: set HARTVISOR_DEBIAN_MIRROR to the URI of one"
    keyring=$(debian_keyring "$mirror")
    mkdir -p "$directory"/{sources,lists/partial,archives/partial}
    apt_private=(
        -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$directory/sources" -o Dir::State::Lists="$directory/lists"
        -o Dir::Cache::Archives="$directory/archives" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=
        -o APT::Update::Error-Mode=any -o APT::Sandbox::User=root "$@"
    )
    retry "reading the package lists of $suites" read_lists "$directory" "$suites" "$mirror" "$keyring"
}

# read_lists DIRECTORY SUITES MIRROR KEYRING: by the suites' codenames, else by the class of their
# release (stable, testing). During a sync a mirror may have an index that does not match its lists
# for hours, and a consistent, slightly older copy of the same release under the other name.
read_lists() {
    local directory=$1 suites=$2 mirror=$3 keyring=$4 codename=${2%%[ -]*} class log
    log=$(mktemp)
    for class in "$codename" stable testing oldstable; do
        printf '%s\n' "Types: deb" "URIs: $mirror" "Suites: ${suites//$codename/$class}" "Components: main" \
            ${keyring:+"Signed-By: $keyring"} >"$directory/sources/private.sources"
        rm -f "$directory"/lists/*Release*
        if apt_quiet apt-get "${apt_private[@]}" update 2>>"$log" && lists_are_of "$directory/lists" "$suites"; then
            [[ $class == "$codename" ]] || say "the mirror's '$codename' is inconsistent at the moment; using its '$class', which is the same release"
            rm -f "$log"
            return 0
        fi
    done
    head -n 15 "$log" >&2
    rm -f "$log"
    return 1
}

# lists_are_of LISTS SUITES: the lists have the codenames of these suites.
lists_are_of() {
    [[ $(sed -n 's/^Codename: //p' "$1"/*Release | sort -u) == "$(tr ' ' '\n' <<<"$2" | sort -u)" ]]
}
