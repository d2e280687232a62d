"""Time travel in a real GDB: it is connected to one machine after the other, each before an exact instruction of one boot."""

import re
from pathlib import Path

import pytest

from pvhdbg.guests import path as guest
from tests.in_gdb.test_gdb import CLEAN, Gdb
from tests.support.cli_runner import HELLO, Machine, eventually

pytestmark = [pytest.mark.boot, pytest.mark.gdb, pytest.mark.usefixtures("qemu")]

LONG_MODE = str(guest("long_mode"))


def test_forth_and_back_in_gdb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    gdb = Gdb(
        f"set pvh kernel {LONG_MODE}",
        f"symbol-file {LONG_MODE}",
        "pvh start --append one",
        "pvh goto in_long_mode",
        "print/x $pc",
        "stepi",
        "pvh back 2",
        "hbreak map_4g",
        "hbreak print",
        "pvh reverse-continue",
        "pvh continue",
        "pvh last-write *$rsp",
        "info pvh",
        "pvh check --select PVH-CR0-PE",
        "pvh continue --for 60",
        "bt 1",
    )
    assert gdb.complaints() == []
    assert gdb["pvh start --append one"].startswith(("before instruction 0: 0x100000 <pvh_start>", "0x"))
    assert "before instruction 10,284: 0x1000a9 <in_long_mode>, 64-bit long mode" in gdb["pvh goto in_long_mode"]
    assert gdb["print/x $pc"] == "$1 = 0x1000a9\n"
    assert "before instruction 10,283: 0x100042 <far_jump>" in gdb["pvh back 2"]
    assert "before instruction 4: 0x100049 <map_4g>" in gdb["pvh reverse-continue"]
    assert "before instruction 10,297: 0x100089 <print>" in gdb["pvh continue"]
    assert re.search(r"by instruction 10,296 at 0x1000d9 <print_fields\+0x3>", gdb["pvh last-write *$rsp"])
    assert "1 PASS" in gdb["pvh check --select PVH-CR0-PE"]
    assert "before instruction " in gdb["pvh continue --for 60"]
    eventually(lambda: not any(tmp_path.iterdir()), "a machine is left behind")


def test_what_gdb_is_refused() -> None:
    theirs = Machine(kernel=HELLO)
    try:
        gdb = Gdb(
            "pvh back",
            "pvh start",
            f"set pvh kernel {HELLO}",
            f"target remote {theirs.socket}",
            "pvh goto 5",
            "pvh start",
            "disconnect",
        )
    finally:
        theirs.close()
    assert [line for line in gdb.complaints() if "(next: " in line] == [
        "GDB is connected to no machine (next: start the kernel here: pvh start)",
        "which kernel? (next: name the kernel: set pvh kernel FILE)",
        "goto needs a machine that pvhdbg started: it goes back by booting the kernel again "
        "(next: leave this one with: disconnect; and start the kernel here: pvh start)",
        "GDB is connected to another machine (next: leave that one first: disconnect)",
    ]


def test_without_a_disassembler() -> None:
    gdb = Gdb(CLEAN, f"set pvh kernel {LONG_MODE}", "pvh start", "pvh goto 9", "pvh last-write $rsp")
    assert any("no disassembler (iced-x86)" in line for line in gdb.complaints())
