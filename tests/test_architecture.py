"""The table of allowed imports (docs/architecture.md) as a test, and the pure modules inside GDB's own Python."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pvhdbg"

# room: the rooms that it may import (itself always). A name is a module or folder right below pvhdbg/.
FACES = {"cli", "repl", "in_gdb", "commands"}  # only these print
PURE: dict[str, set[str]] = {
    "version": set(),
    "errors": set(),
    "layout": set(),
    "model": set(),
    "spec": {"layout"},
    "decode": {"errors", "layout", "spec", "model"},
    "loaders": {"errors", "layout", "spec", "model", "decode"},
    "rules": {"errors", "layout", "spec", "model", "decode"},
    "report": {"errors", "layout", "version", "spec", "model", "decode", "loaders", "rules", "tracing"},
    "rsp": {"errors"},
    "expect": {"errors", "layout", "spec", "model", "decode", "rules"},
    "tracing": {"errors", "layout", "spec", "model", "decode"},
}
ALLOWED: dict[str, set[str]] = {
    **PURE,
    "guests": {"errors"},
    "disassembly": set(),
    "tracing.engines": {*PURE, "targets", "kernel"},
    "targets": {"errors", "model", "decode", "rsp", "spec"},
    "vmm": {"errors", "model", "decode"},
    "kernel": {"errors", "layout", "version", "model", "spec", "decode", "loaders"},
    "machine": {*PURE, "targets", "vmm", "kernel", "disassembly", "tracing.engines", "commands", "driver"},
    "driver": {*PURE, "targets", "vmm", "kernel", "disassembly", "tracing.engines", "machine", "commands"},
    "commands": {*PURE, "guests", "targets", "vmm", "kernel", "disassembly", "tracing.engines", "machine", "driver"},
    "cli": {*PURE, "machine", "commands", "repl"},
    "repl": {*PURE, "targets", "vmm", "kernel", "disassembly", "tracing.engines", "machine", "driver", "commands", "cli"},
    "in_gdb": {*PURE, "targets", "kernel", "machine", "driver", "commands"},
    "api": {*PURE, "machine", "commands"},
    "booted": {*PURE, "targets", "vmm", "kernel", "machine", "tracing.engines"},
    "pytest_plugin": {"booted", "decode", "errors", "report", "vmm"},
    "__init__": {"*"},
    "__main__": {"cli"},
}
# Third-party packages, and the only modules that may import each.
FOREIGN = {
    "pygdbmi": {"targets/mi.py"},
    "iced_x86": {"disassembly.py"},
    "prompt_toolkit": {"repl/terminal.py"},
    "elftools": {"kernel/debug_info.py"},
    "typing_extensions": {"layout.py"},  # for type checkers alone
    "pytest": {"pytest_plugin.py"},
    "lz4": {"kernel/unpack.py"},
    "zstandard": {"kernel/unpack.py"},
    "tomllib": {"commands/expecting.py"},  # the standard library's from Python 3.11 on
    "tomli": {"commands/expecting.py"},
    "gdb": {
        "targets/inside_gdb.py",
        "targets/gdb_quiet.py",
        "in_gdb/commands.py",
        "in_gdb/session.py",
        "in_gdb/settings.py",
        "in_gdb/functions.py",
        "in_gdb/printers.py",
        "in_gdb/pvhdbg-gdb.py",
    },
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


# A folder inside a room that is a room of its own, because it does what the rest of the room must not.
INNER = {("tracing", "engines"): "tracing.engines"}


def room(path: Path) -> str:
    return room_of(path.relative_to(PACKAGE).parts)


def room_of(parts: tuple[str, ...]) -> str:
    return INNER.get((parts[0], parts[1] if len(parts) > 1 else "")) or parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[str, int]]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "pvhdbg" else [str(node.module)]
            found += [(name, node.lineno) for name in names]
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_rooms_import_only_what_the_table_allows(path: Path) -> None:
    here = room(path)
    assert here in ALLOWED, f"the table does not know pvhdbg/{here}"
    allowed = ALLOWED[here]
    for name, line in imports(path):
        top, *rest = name.split(".")
        if top == "pvhdbg":
            other = room_of(tuple(rest)) if rest else "__init__"
            assert "*" in allowed or other == here or other in allowed, f"{path}:{line} imports {name}"
        elif top not in sys.stdlib_module_names:
            users = FOREIGN.get(top, set())
            assert str(path.relative_to(PACKAGE)) in users, f"{path}:{line} imports {name}"


def test_pure_rooms_do_no_input_or_output() -> None:
    forbidden = {"os", "socket", "subprocess", "pathlib", "io", "time", "random", "threading", "tempfile", "sys", "logging"}
    for path in modules():
        if room(path) in PURE:
            for name, line in imports(path):
                assert name.split(".")[0] not in forbidden, f"{path}:{line} imports {name}"
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    assert node.func.id not in {"open", "print", "input"}, f"{path}:{node.lineno} does I/O"


def test_only_faces_print() -> None:
    for path in modules():
        if room(path) not in FACES:
            for node in ast.walk(ast.parse(path.read_text())):
                assert not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"), path


def test_pure_modules_import_inside_gdbs_python() -> None:
    if shutil.which("gdb") is None:
        if os.environ.get("CI"):
            pytest.fail("gdb is missing")
        pytest.skip("gdb is not installed")
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in modules() if room(path) in PURE
    ]
    script = "\n".join(
        [
            "import sys",
            "sys.path = [p for p in sys.path if 'site-packages' not in p and 'dist-packages' not in p]",
            f"sys.path.insert(0, {str(ROOT)!r})",
            *(f"import {name}" for name in names),
            "from pvhdbg.rules.catalogue import MACHINE_RULES, judge",
            "from pvhdbg.spec.revisions import V1",
            "verdicts = judge(MACHINE_RULES[0].passes[0].boot(V1))",
            "print('imported', len(verdicts), 'verdicts')",
        ]
    )
    result = subprocess.run(
        ["gdb", "-nx", "-batch", "-ex", f"python exec({script!r})"], capture_output=True, text=True, timeout=60, check=False
    )
    assert "imported 77 verdicts" in result.stdout, result.stderr
