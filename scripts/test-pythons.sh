#!/usr/bin/env bash
# Install the wheel in a clean virtual environment of each Python, with its dependencies from PyPI, and use each of its interfaces there:
# command line, Python, pytest, GDB, completion, manual pages. `make test-pythons`; half a minute and 100 MB in build/pythons for each.
#
#   PYTHONS="..."   interpreters (default: every python3.10 to python3.14 that is found and runs)

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

BIN=${BIN:-.venv/bin}
FOLDER=$PWD/build/pythons
PYTHONS=${PYTHONS:-python3.10 python3.11 python3.12 python3.13 python3.14}

rm -rf "$FOLDER" && mkdir -p "$FOLDER"
"$BIN/python" -m build -q --no-isolation --skip-dependency-check --wheel -o "$FOLDER/dist" . >"$FOLDER/build.log" 2>&1 ||
    { tail -n 20 "$FOLDER/build.log" >&2; exit 1; }
failed= tried=
for python in $PYTHONS; do
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
    echo "== Python $version ($python)"
    tried=yes
    place=$FOLDER/$version
    if "$python" -m venv "$place" && "$place/bin/python" -m pip install -q --disable-pip-version-check "$FOLDER"/dist/*.whl "pytest>=8"; then
        PVHDBG_INSTALLED=$place CI=true timeout 300 "$BIN/pytest" -q tests/test_packaging.py \
            -k "command_line_and_python or pytest_plugin or script_for_gdb or completion_and_manual" || failed="$failed $version"
    else
        failed="$failed $version"
    fi
done
[ -n "$tried" ] || { echo "none of these runs here: $PYTHONS" >&2; exit 1; }
if [ -n "$failed" ]; then echo "failed:$failed" >&2; exit 1; fi
