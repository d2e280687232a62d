#!/bin/bash
# make test-planted-linux: build a small Linux in which deaths are planted, and let `why` name each. The first time takes 5 minutes of CPU,
# and 1.8 GB under build/.
#
# The source is Debian's linux-source, from /usr/src or downloaded (140 MB) into build/planted-linux; nothing is installed, and no root is
# needed. It takes make, gcc, flex, bison, bc and libelf-dev to build.
#
#   SOURCE=6.1       the version of linux-source (default: the newest that apt has)
#   PVHDBG_PLANTED_LINUX=VMLINUX   use that kernel; build none
#   PVHDBG_QEMU=PATH               boot it with that QEMU
set -u
cd "$(dirname "$0")/.." || exit
folder=$PWD/build/planted-linux
here=$PWD/tests/planted_linux
kernel=${PVHDBG_PLANTED_LINUX:-}
say() { printf 'test-planted-linux: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

source_archive() {
    ls /usr/src/linux-source-"$version".tar.xz "$folder"/root/usr/src/linux-source-"$version".tar.xz 2>/dev/null | head -n 1
}

build() {
    for program in make gcc flex bison bc xz; do
        command -v "$program" >/dev/null || fail "$program is not here: apt install make gcc flex bison bc xz-utils libelf-dev"
    done
    [ -e /usr/include/libelf.h ] || fail "libelf.h is not here: apt install libelf-dev"
    version=${SOURCE:-$(apt-cache depends linux-source 2>/dev/null | sed -n 's/.*Depends: linux-source-\([0-9.]*\)$/\1/p' | head -n 1)}
    [ -n "$version" ] || fail "apt knows no linux-source: give SOURCE=6.1, or run apt-get update"
    mkdir -p "$folder/root"
    archive=$(source_archive)
    if [ -z "$archive" ]; then
        (cd "$folder" && apt-get -o APT::Sandbox::User= -qq download "linux-source-$version" && dpkg-deb -x linux-source-"$version"_*.deb root) ||
            fail "linux-source-$version cannot be downloaded"
        archive=$(source_archive)
    fi
    if [ ! -e "$folder/source-$version/Makefile" ]; then
        say "unpacking $archive"
        mkdir -p "$folder/source-$version" && tar xf "$archive" -C "$folder/source-$version" --strip-components=1 || fail "it cannot be unpacked"
        echo 'obj-y += planted.o' >>"$folder/source-$version/init/Makefile"
    fi
    cmp -s "$here/planted.c" "$folder/source-$version/init/planted.c" || cp "$here/planted.c" "$folder/source-$version/init/planted.c"
    kernel=$folder/out-$version/vmlinux
    say "building Linux $version: the log is $folder/build.log"
    {
        KCONFIG_ALLCONFIG="$here/config" make -s -C "$folder/source-$version" O="$folder/out-$version" allnoconfig &&
            nice make -s -C "$folder/source-$version" O="$folder/out-$version" -j "$(nproc)" vmlinux
    } >"$folder/build.log" 2>&1 || { tail -n 15 "$folder/build.log" >&2; fail "it does not build"; }
}

[ -n "$kernel" ] || build
PVHDBG_PLANTED_LINUX=$kernel exec timeout 900 .venv/bin/pytest -q -rs tests/commands/test_planted_linux.py ${PYTEST_ARGS:-}
