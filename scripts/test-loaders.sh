#!/bin/bash
# make test-loaders: the simulated loaders against the real ones: rust-vmm's linux-loader (Debian's librust-linux-loader-dev, offline),
# Xen's libxenguest and the installed QEMU. Where linux-loader or cargo is missing, that part is left out, and said.
set -u
cd "$(dirname "$0")/.." || exit
registry=/usr/share/cargo/registry
program=${PVHDBG_LINUX_LOADER:-}
say() { printf 'test-loaders: %s\n' "$*" >&2; }

build() {
    folder=build/linux-loader
    mkdir -p "$folder/.cargo" && cp -r tests/loaders/linux_loader/. "$folder"
    printf '[source.crates-io]\nreplace-with = "debian"\n[source.debian]\ndirectory = "%s"\n' "$registry" >"$folder/.cargo/config.toml"
    (cd "$folder" && cargo build -q --release --offline) || { say "the harness does not build"; exit 1; }
    program=$PWD/$folder/target/release/linux_loader_answers
}

if [ -z "$program" ]; then
    if ! command -v cargo >/dev/null; then
        say "SKIPPED linux-loader: cargo is not here (apt install cargo librust-linux-loader-dev)"
    elif ! ls -d "$registry"/linux-loader-* >/dev/null 2>&1; then
        say "SKIPPED linux-loader: no $registry/linux-loader-* (apt install librust-linux-loader-dev)"
    else
        build
    fi
fi
PVHDBG_LINUX_LOADER=$program exec timeout 900 .venv/bin/pytest -q -rs tests/loaders ${PYTEST_ARGS:-}
