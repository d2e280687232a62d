#!/usr/bin/env bash
# Run `make demo` and `make test` in a bare Debian: `make test-bare RELEASE=trixie`. Needs root and debootstrap.
#
# Makes a chroot build/bare-RELEASE with debootstrap's smallest variant and the few packages that README asks for, puts a fresh
# clone of the current commit in it, runs both commands there, and prints what was skipped and why. All output is also in
# build/bare-RELEASE.log, and the chroot is left for a look into it; `make clean` removes both.
#
# Everything runs in a mount and a process namespace of its own: however it ends, nothing stays mounted and nothing runs on.
#
#   RELEASE=...      the release of Debian (default: trixie)
#   MIRROR=...       where its packages are (default: http://deb.debian.org/debian)
#   PTS=no           without /dev/pts: no test gets a terminal
#   PYTEST_ARGS=...  handed to make
#
# The chroot gets this machine's resolv.conf and hosts, the settings of proxies, of pip (PIP_*) and of TLS certificates, and the
# files of certificates that these name.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

RELEASE=${RELEASE:-trixie}
MIRROR=${MIRROR:-http://deb.debian.org/debian}
PACKAGES=python3,python3-venv,make,git,ca-certificates
ROOT=$PWD/build/bare-$RELEASE
LOG=$PWD/build/bare-$RELEASE.log
CERTIFICATES=(SSL_CERT_FILE PIP_CERT CURL_CA_BUNDLE REQUESTS_CA_BUNDLE GIT_SSL_CAINFO)

say() { printf 'test-bare: %s\n' "$*"; }
fail() { printf 'test-bare: %s\n' "$*" >&2; exit 1; }

# The words NAME=VALUE that the chroot's environment takes from ours.
passed_on() {
    local name
    for name in $(compgen -e); do
        case $name in
            [Hh][Tt][Tt][Pp]_[Pp][Rr][Oo][Xx][Yy] | [Hh][Tt][Tt][Pp][Ss]_[Pp][Rr][Oo][Xx][Yy] | [Nn][Oo]_[Pp][Rr][Oo][Xx][Yy] | \
                PIP_* | SSL_CERT_* | CURL_CA_BUNDLE | REQUESTS_CA_BUNDLE | GIT_SSL_CAINFO | CI | PYTEST_ARGS)
                printf '%s=%s\0' "$name" "${!name}" ;;
        esac
    done
}

make_chroot() {
    local name file
    rm -rf "$ROOT"
    mkdir -p "$ROOT"
    debootstrap --variant=minbase --include="$PACKAGES" "$RELEASE" "$ROOT" "$MIRROR" >"$ROOT.debootstrap.log" 2>&1 || {
        tail -n 15 "$ROOT.debootstrap.log" >&2
        fail "debootstrap failed; all that it said is in $ROOT.debootstrap.log"
    }
    for file in /etc/resolv.conf /etc/hosts; do
        [ ! -e "$file" ] || cp --dereference "$file" "$ROOT$file"
    done
    for name in "${CERTIFICATES[@]}"; do
        file=${!name:-}
        [ -f "$file" ] || continue
        mkdir -p "$ROOT$(dirname "$file")"
        cp --dereference "$file" "$ROOT$file"
    done
    git clone --quiet --no-hardlinks "$PWD" "$ROOT/root/pvhdbg"
    git -C "$ROOT/root/pvhdbg" checkout --quiet --detach "$(git rev-parse HEAD)"
}

mount_all() {
    mount -t proc proc "$ROOT/proc"
    mkdir -p "$ROOT/dev/shm" "$ROOT/dev/pts"
    mount -t tmpfs -o mode=1777 shm "$ROOT/dev/shm"
    [ "${PTS:-yes}" = no ] || mount -t devpts -o newinstance,ptmxmode=0666 devpts "$ROOT/dev/pts"
}

# inside WORDS...: a command in the clone. This shell's background jobs ignore Ctrl-C, and so would all that the tests start.
inside() {
    local words
    mapfile -d '' -t words < <(passed_on)
    chroot "$ROOT" /usr/bin/env --default-signal=INT,QUIT -i HOME=/root LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        "${words[@]}" sh -c 'cd /root/pvhdbg && exec "$@"' sh "$@" </dev/null
}

# timed WHAT WORDS...: a command in the clone, its output in the log too, and how it ended
timed() {
    local what=$1 began=$SECONDS status=0
    shift
    inside "$@" 2>&1 | tee -a "$LOG" || status=$?
    if [ "$status" -eq 0 ]; then status=passed; else status=failed; failed="$failed '$what'"; fi
    say "$what $status in $((SECONDS - began)) s" | tee -a "$LOG"
}

run() {
    failed=
    : >"$LOG"
    say "making $ROOT"
    make_chroot
    mount_all
    [ -z "$(git status --porcelain)" ] || say "what is not committed is not tested"
    timed "make demo" make demo
    timed "make test" make test
    say "$RELEASE, commit $(git rev-parse --short HEAD), with: $(inside sh -c 'qemu-system-x86_64 --version | head -n 1; gdb --version | head -n 1; python3 --version' | xargs -d '\n' printf '%s; ')"
    say "skipped:"
    grep '^SKIPPED' "$LOG" || echo "nothing"
    [ -z "$failed" ] || fail "failed:$failed; see $LOG"
    say "all passed"
}

[ "$(id -u)" -eq 0 ] || fail "needs root, for debootstrap and chroot"
case $RELEASE in *[!a-z0-9-]* | "" | -*) fail "RELEASE=$RELEASE is not the name of a release" ;; esac
for program in debootstrap unshare setpriv git; do
    command -v "$program" >/dev/null || fail "$program is not installed"
done

if [ "${1:-}" = --in-namespace ]; then
    run
    exit
fi
mkdir -p build
exec 9>"$ROOT.lock"
flock -n 9 || fail "another run for $RELEASE is under way"
# unshare passes no signal on while it waits, so it is killed, and the kernel kills with it all that runs in the namespace.
setpriv --pdeathsig KILL unshare --mount --propagation private --pid --fork --kill-child "$0" --in-namespace &
child=$!
trap 'kill -KILL "$child" 2>/dev/null || true' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
wait "$child"
