#!/usr/bin/env bash
# Make a checkout ready: the programs pvhdbg uses, and pvhdbg itself (editable, with its test tools) in .venv.
# Does only what is missing, so it is quick the second time. Exit status 0: everything is there.
#
#   --tests      also what only the tests use: gcc, which is asked how it lays structures out, rustc, whose words the fixes are
#                given in, zstd, which unpacks where Python has no module, zsh and fish, which complete commands, Chromium, which
#                the HTML report is looked at with, and Perl's TAP parser
#   PYTHON=...   the Python to make .venv with (default: python3, or the newest python3.N there is; 3.10 is the oldest)

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tests=
case ${1:-} in
    "") ;;
    --tests) tests=yes ;;
    *) printf 'usage: %s [--tests]\n' "$0" >&2; exit 2 ;;
esac

VENV=.venv
STAMP=$VENV/.installed   # what was installed: the checksum of pyproject.toml
LOG=build/setup.log
OLDEST='(3, 10)'

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# step "what it does" SECONDS COMMAND...: one line, its output in the log, which is shown if it fails.
step() {
    local what=$1 seconds=$2 status=0
    shift 2
    say "$what"
    printf '\n== %s\n' "$*" >>"$LOG"
    timeout "$seconds" "$@" >>"$LOG" 2>&1 </dev/null || status=$?
    [ "$status" -ne 0 ] || return 0
    tail -n 15 "$LOG" >&2
    [ "$status" -ne 124 ] || say "not done within $seconds s" >&2
    say "failed: $what (status $status; all of it is in $LOG)" >&2
    return 1
}

have() { command -v "$1" >/dev/null 2>&1; }
have_browser() { have chromium || have chromium-browser || have google-chrome || have google-chrome-stable || have chrome; }
recent() { "$1" -c "import sys; sys.exit(sys.version_info < $OLDEST)" >/dev/null 2>&1; }

# ---- Python ----

choose_python() {
    local name
    if [ -n "${PYTHON:-}" ]; then
        recent "$PYTHON" || fail "PYTHON=$PYTHON is not a Python of 3.10 or newer"
        python=$PYTHON
        return
    fi
    for name in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
        if have "$name" && recent "$name"; then
            python=$name
            return
        fi
    done
    python=
}

installed() { [ -x "$VENV/bin/pvhdbg" ] && [ -f "$STAMP" ] && cksum <pyproject.toml | cmp -s - "$STAMP" && "$VENV/bin/python" -c ''; }

# ---- programs: each with the Debian package it comes from ----

missing_packages() {
    have qemu-system-x86_64 || echo qemu-system-x86
    have gdb || echo gdb
    { have as && have ld && have objcopy && have objdump && have readelf && have nm; } || echo binutils
    if [ -n "$tests" ]; then
        have gcc || echo gcc
        [ -e /usr/include/stdio.h ] || echo libc6-dev
        have rustc || echo rustc
        have zstd || echo zstd
        have git || echo git
        have setsid || echo util-linux
        have zsh || echo zsh
        have fish || echo fish
        perl -MTAP::Parser -e1 >/dev/null 2>&1 || echo perl
        # Ubuntu has Chromium as a snap only, which containers do not run: install Chrome by hand there
        have_browser || grep -qs '^ID=ubuntu' /etc/os-release || echo chromium
    fi
    installed && return
    if [ -z "$python" ]; then
        echo python3 python3-venv
    elif ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        echo python3-venv
    fi
    # pip reads packages over https; a minimal image has no certificates
    [ -e /etc/ssl/certs/ca-certificates.crt ] || [ -e /etc/pki/tls/certs/ca-bundle.crt ] || [ -e /etc/ssl/cert.pem ] || echo ca-certificates
}

install_packages() {
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        have sudo || fail "as root, install: $*"
        if [ -t 0 ]; then sudo -v || fail "as root, install: $*"; fi
        as_root=(sudo -n)
    fi
    as_root+=(env DEBIAN_FRONTEND=noninteractive)
    local apt=(apt-get -q -y -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3)
    step "reading the package lists" 300 "${as_root[@]}" "${apt[@]}" update || say "continuing with the old lists"
    step "installing $*" 1500 "${as_root[@]}" "${apt[@]}" install --no-install-recommends "$@" || exit 1
}

# ---- all of it ----

mkdir -p build
if have flock; then
    exec 9>build/setup.lock
    flock -w 1800 9 || fail "another setup has been running for half an hour"
fi
: >"$LOG"

python=
installed || choose_python
missing=$(missing_packages | xargs)
if [ -n "$missing" ]; then
    # shellcheck disable=SC2086 # a list of words
    if have apt-get; then install_packages $missing; else fail "not found, and no apt-get here; install what Debian calls: $missing"; fi
    installed || choose_python
    missing=$(missing_packages | xargs)
    case " $missing " in
        *" python3-venv "*) fail "$python has no ensurepip, so it cannot make a virtual environment; install its venv package, or set PYTHON" ;;
    esac
    [ -z "$missing" ] || fail "still not found after the installation: $missing"
fi

if ! installed; then
    [ -n "$python" ] || fail "no Python of 3.10 or newer was found; install one, or set PYTHON"
    recent "$VENV/bin/python" || step "making $VENV with $("$python" --version)" 120 "$python" -m venv --clear "$VENV" || exit 1
    step "installing pvhdbg and its test tools" 900 "$VENV/bin/python" -m pip install --disable-pip-version-check --no-input -e '.[dev]' || exit 1
    cksum <pyproject.toml >"$STAMP"
    say "done; start with: make demo"
fi
