#!/bin/bash
# make test-loaders: the simulated loaders against the real ones: rust-vmm's linux-loader (Debian's librust-linux-loader-dev, offline),
# Xen's libxenguest and the installed QEMU. Where linux-loader or cargo is missing, that part is left out, and said.
#
# Where the crate is not installed, Debian's packages of it and of its dependencies are downloaded and unpacked into build/linux-loader;
# nothing is installed, and no root is needed.
#
#   SUITE=sid        the suite that they are taken from
#   MIRROR=...       where its packages are (default: http://deb.debian.org/debian)
#   OFFLINE=yes      download nothing
set -u
cd "$(dirname "$0")/.." || exit
registry=/usr/share/cargo/registry
crate=librust-linux-loader-dev
suite=${SUITE:-sid}
mirror=${MIRROR:-http://deb.debian.org/debian}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
folder=$PWD/build/linux-loader
program=${PVHDBG_LINUX_LOADER:-}
say() { printf 'test-loaders: %s\n' "$*" >&2; }

have_crate() { ls -d "$1"/linux-loader-* >/dev/null 2>&1; }

# An apt of our own: its lists, cache and list of installed packages (none) lie in the build folder.
private_apt() {
    apt-get -qq -o Dir::State="$folder/apt/state" -o Dir::State::status="$folder/apt/status" -o Dir::Cache="$folder/apt/cache" \
        -o Dir::Etc::sourcelist="$folder/apt/sources.list" -o Dir::Etc::sourceparts=- -o Dir::Etc::preferencesparts=- \
        -o APT::Architecture=amd64 -o APT::Install-Recommends=false -o APT::Sandbox::User=root -o Acquire::Retries=3 "$@"
}

# The crate's packages, unpacked: apt resolves what it needs, and only crates are taken of that.
download() {
    mkdir -p "$folder"/apt/state/lists/partial "$folder"/apt/cache/archives/partial "$folder/packages" "$folder/root" || return
    : >"$folder/apt/status"
    printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$mirror" "$suite" >"$folder/apt/sources.list"
    private_apt update || return
    mapfile -t names < <(private_apt --print-uris -y install "$crate" | sed -n "s/^'[^']*' \(librust-[^_]*\)_.*/\1/p")
    [ "${#names[@]}" -gt 0 ] || return
    (cd "$folder/packages" && private_apt download "${names[@]}") || return
    for package in "$folder"/packages/*.deb; do
        dpkg-deb -x "$package" "$folder/root" || return
    done
}

build() {
    mkdir -p "$folder/.cargo" && cp -r tests/loaders/linux_loader/. "$folder"
    printf '[source.crates-io]\nreplace-with = "debian"\n[source.debian]\ndirectory = "%s"\n' "$1" >"$folder/.cargo/config.toml"
    (cd "$folder" && cargo build -q --release --offline) || { say "the harness does not build with $(rustc --version)"; exit 1; }
    program=$folder/target/release/linux_loader_answers
}

if [ -z "$program" ]; then
    if ! command -v cargo >/dev/null; then
        say "SKIPPED linux-loader: cargo is not here (apt install cargo $crate)"
    elif have_crate "$registry"; then
        build "$registry"
    elif have_crate "$folder/root$registry"; then
        build "$folder/root$registry"
    elif [ "${OFFLINE:-}" != yes ] && command -v apt-get dpkg-deb >/dev/null && [ -r "$keyring" ] && download && have_crate "$folder/root$registry"; then
        build "$folder/root$registry"
    else
        say "SKIPPED linux-loader: it is not in $registry, and could not be downloaded from $mirror $suite (apt install $crate)"
    fi
fi
PVHDBG_LINUX_LOADER=$program exec timeout 900 .venv/bin/pytest -q -rs tests/loaders ${PYTEST_ARGS:-}
