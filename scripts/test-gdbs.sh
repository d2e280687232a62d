#!/usr/bin/env bash
# Run the tests that use GDB with other GDBs than the installed one, and with other Pythons in GDB: `make test-gdbs`.
#
# The GDBs are wheels that pwndbg publishes (PyPI: gdb-for-pwndbg), built from GDB's unchanged sources for the Python that pip runs
# for. Each of GDBS runs with .venv's Python, and the newest one also with each of PYTHONS. Each takes 40 MB in build/gdbs and about
# 15 seconds. An older GDB, or one of your own:
#
#   PATH=/opt/gdb-12/bin:$PATH .venv/bin/pytest tests/in_gdb/test_gdb.py tests/repl/test_repl_gdb.py
#
#   GDBS="..."      versions of the wheel (default: the last of each series that is published, pinned so that a run can be repeated)
#   PYTHONS="..."   interpreters (default: every python3.10 and newer that is found and has a libpython to load)

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

BIN=${BIN:-.venv/bin}
GDBS=${GDBS:-16.3.0.post6 17.2.0.post5 18.1.0.post1}
TESTS=(tests/in_gdb/test_gdb.py tests/in_gdb/test_dap.py tests/repl/test_repl_gdb.py tests/repl/test_repl_terminal.py tests/targets
    tests/boot/test_cores.py tests/test_architecture.py)
FOLDER=$PWD/build/gdbs

# The path of an interpreter's libpython; empty where it has none, or where the interpreter does not run.
libpython_folder() {
    "$1" - 2>/dev/null <<'PYTHON'
import os, sys, sysconfig
folder, name = sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("INSTSONAME")
places = [folder, os.path.join(folder, sysconfig.get_config_var("MULTIARCH") or "")]
found = [one for one in places if ".so" in name and os.path.exists(os.path.join(one, name))]
print(found[0] if found and sys.version_info >= (3, 10) else "")
PYTHON
}

# gdb_of VERSION PYTHON: a folder with this gdb in it. The wheel's own launcher is not used: it gives GDB the packages of its
# environment, but pvhdbg must work in GDB without any packages.
gdb_of() {
    local version=$1 python=$2 tag folder vendor library
    tag=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    folder=$FOLDER/$version-python$tag
    if [ ! -x "$folder/bin/gdb" ]; then
        library=$(libpython_folder "$python")
        [ -n "$library" ] || { echo "$python has no libpython" >&2; return 1; }
        rm -rf "$folder"
        # $BIN's pip, because a bare interpreter may have none; the wheel is chosen for the other Python
        "$BIN/python" -m pip install -q --disable-pip-version-check --no-deps --only-binary=:all: --python-version "$tag" \
            --target "$folder/files" "gdb-for-pwndbg==$version" >&2
        vendor=$folder/files/gdb_for_pwndbg/_vendor
        ln -s "$folder/files/gdb" "$vendor/share/gdb/python/gdb" 2>/dev/null ||
            { mkdir -p "$vendor/share/gdb/python" && ln -s "$folder/files/gdb" "$vendor/share/gdb/python/gdb"; }
        mkdir -p "$folder/bin"
        printf '#!/bin/sh\nexport PYTHONHOME=%q LD_LIBRARY_PATH=%q\nexec %q --data-directory %q "$@"\n' \
            "$("$python" -c 'import sys; print(sys.base_prefix)')" "$library" "$vendor/bin/gdb" "$vendor/share/gdb" >"$folder/bin/gdb"
        chmod +x "$folder/bin/gdb"
    fi
    echo "$folder/bin"
}

failed=
# run VERSION PYTHON
run() {
    local folder
    folder=$(gdb_of "$1" "$2") || { failed="$failed $1/$2"; return; }
    PATH=$folder:$PATH gdb -nx -batch -ex 'python import sys; print(f"GDB {gdb.VERSION}, Python {sys.version.split()[0]}")'
    PATH=$folder:$PATH CI=true timeout 600 "$BIN/pytest" -q -n "$(nproc)" "${TESTS[@]}" || failed="$failed $1/$2"
}

for version in $GDBS; do
    run "$version" "$BIN/python"
done
if [ -z "${PYTHONS+set}" ]; then
    PYTHONS=
    ours=$("$BIN/python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
    for name in python3.10 python3.11 python3.12 python3.13 python3.14; do
        if [ "$name" != "$ours" ] && [ -n "$(libpython_folder "$name")" ]; then PYTHONS="$PYTHONS $name"; fi
    done
fi
for python in $PYTHONS; do
    run "$version" "$python"
done
if [ -n "$failed" ]; then echo "failed:$failed" >&2; exit 1; fi
