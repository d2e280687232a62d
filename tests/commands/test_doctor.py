"""`pvhdbg doctor` on this computer, and on one that lacks everything."""

import json
import re
import shutil

import pytest

from pvhdbg.commands.doctor import PARTS
from pvhdbg.commands.schema import FOLDER
from tests.support.cli_runner import Cli


@pytest.mark.gdb
def test_what_is_here(cli: Cli) -> None:
    import jsonschema

    document = cli("doctor", "--format", "json").ok().json()
    with open(f"{FOLDER}/doctor-1.json") as file:
        jsonschema.validate(document, json.load(file))
    tools = {one["name"]: one for one in document["tools"]}
    assert document["ready"] is True
    assert tools["QEMU"]["present"]
    assert tools["GDB"]["present"]
    assert tools["GDB's Python"]["detail"].startswith("Python 3.")
    assert all(tools[name]["present"] for name in ("disassembler", "drgn", "MCP's SDK", "Dask"))
    assert tools["GDB's adapter"]["present"] is (int(re.findall(r" (\d+)\.\d+", tools["GDB"]["detail"])[0]) >= 14)
    assert tools["C compiler"]["present"] is (shutil.which("cc") is not None)


def test_a_computer_without_the_programs_is_told_how_to_get_them(cli: Cli) -> None:
    ran = cli("doctor", env={"PATH": str(cli.folder)}).ok(1)
    assert ran.err == ""
    assert "not ready: no kernel can be started" in ran.out
    for part in PARTS:
        assert part.name in ran.out
        assert part.needed_by in ran.out
    for package in ("qemu-system-x86", "gcc libc6-dev", "gdb"):
        assert f"get it: {package}\n" in ran.out


def test_a_program_that_is_not_what_its_name_says(cli: Cli) -> None:
    fake = cli.folder / "qemu-system-x86_64"
    fake.write_text("#!/bin/sh\nprintf 'QEMU emulator version 3.1.0\\033[31m'\n")
    fake.chmod(0o755)
    ran = cli("doctor", env={"PATH": f"{cli.folder}:/bin:/usr/bin"}).ok(1)
    assert "\x1b" not in ran.out
    assert "QEMU 3.1" in ran.out
