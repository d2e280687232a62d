"""What a command imports: nothing that takes long and that it does not use. How long it takes is for the benchmarks."""

import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.support.cli_runner import HELLO, ROOT, Machine

# The standard library's that take long to import, or that only one answer of many needs.
SLOW = {
    "asyncio", "bz2", "ctypes.util", "dataclasses", "difflib", "hashlib", "importlib.metadata", "importlib.resources", "inspect", "json", "logging", "lzma",
    "pathlib", "random", "shutil", "subprocess", "tempfile", "textwrap", "traceback", "urllib", "uuid", "zipfile",
}  # fmt: skip
FOREIGN = {"elftools", "iced_x86", "lz4", "pkg_resources", "prompt_toolkit", "pygdbmi", "setuptools", "zstandard"}
OF_MACHINES = {
    f"pvhdbg.{name}" for name in ("machine", "decode.boot_state", "report.document", "rules.catalogue", "rules.examples", "targets")
}
OF_OTHERS = {
    f"pvhdbg.{name}"
    for name in ("decode.kallsyms", "disassembly", "loaders", "report.json_report", "kernel.symbols", "tracing", "vmm")
}

# Modules that every command needs come first: their own imports, which differ from release to release, are not counted.
PROGRAM = """
import sys
needed, *words = sys.argv[1:]
for name in needed.split():
    __import__(name)
before = set(sys.modules)
from pvhdbg.cli.program import main
code = main(words)
print("imported", code, *set(sys.modules) - before)
"""


def imported(*words: str, needed: str = "argparse") -> set[str]:
    """The modules that a command imports beyond those that it needs; it has to succeed."""
    command = [sys.executable, "-c", PROGRAM, needed, *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=True)
    said, code, *modules = done.stdout.splitlines()[-1].split()
    assert (said, code) == ("imported", "0")
    return set(modules)


def among(modules: set[str], unwanted: set[str]) -> set[str]:
    """Those that are unwanted, or lie in a package that is."""
    return {name for name in modules if any(name == one or name.startswith(f"{one}.") for one in unwanted)}


def test_elf_imports_neither_what_is_slow_nor_what_machines_need() -> None:
    modules = imported("elf", HELLO, needed="argparse iced_x86")  # which shows the code at the entry
    assert "pvhdbg.rules.kernel_file" in modules
    assert among(modules, SLOW | FOREIGN | OF_MACHINES) == set()


def test_check_imports_neither_what_is_slow_nor_what_others_need(machine: Callable[..., Machine]) -> None:
    modules = imported("check", machine().socket)
    assert "pvhdbg.rules.catalogue" in modules
    assert among(modules, SLOW | FOREIGN | OF_OTHERS) == set()


@pytest.mark.parametrize("words", [("explain", "ELF-NOTE-18"), ("rules",)], ids=["explain", "rules"])
def test_what_shows_no_code_imports_no_disassembler_and_nothing_slow(words: tuple[str, ...]) -> None:
    assert among(imported(*words, needed="argparse inspect"), SLOW | FOREIGN) == set()  # inspect lays a docstring out


def test_the_version_imports_nothing() -> None:
    found = imported("--version", needed="re")  # which pip's script imports
    assert {name for name in found if name.startswith("pvhdbg.")} == {"pvhdbg.cli", "pvhdbg.cli.program", "pvhdbg.version"}
    assert among(found, {"typing", "dataclasses", "collections.abc", "importlib"}) == set()
