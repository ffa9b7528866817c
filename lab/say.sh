# shellcheck shell=bash
# Messages of the lab's scripts. They go to standard error, so that they never mix with a command's
# output.

say() { printf 'lab: %s\n' "$*" >&2; }

# fail STATUS TEXT...: prints an error and ends the script.
fail() {
    local status=$1
    shift
    printf 'lab: error: %s\n' "$*" >&2
    exit "$status"
}

# retry WHAT COMMAND...: package mirrors may be busy, or in the middle of a sync (5xx, "unexpected
# size", "Hash Sum mismatch").
retry() {
    local what=$1 pause
    shift
    for pause in 5 15 45 90 180; do
        "$@" && return 0
        say "$what failed; trying again in $pause s"
        sleep "$pause"
    done
    "$@" || fail 1 "$what failed six times; the messages above say why"
}
