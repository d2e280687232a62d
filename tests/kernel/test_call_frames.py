"""The call frame tables of an ELF that GCC made: objdump's rows, and damaged tables, which give none."""

import re
import subprocess
from pathlib import Path

import pytest

from pvhdbg.kernel.call_frames import CallFrames
from tests.support.programs import need

C = """int g(int);
int f(int a) { int b[40]; for (int i = 0; i < 40; i++) b[i] = g(a + i); return b[a] + f(a - 1); }
int g(int x) { return x; }
void _start(void) { f(3); }"""


@pytest.fixture(scope="module", params=["-m32", "-m64"])
def elf(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("gcc", "ld", "objdump")
    folder = tmp_path_factory.mktemp("cfi")
    (folder / "a.c").write_text(C)
    width = {"-m32": "elf_i386", "-m64": "elf_x86_64"}[request.param]
    subprocess.run(["gcc", request.param, "-O1", "-fno-pic", "-ffreestanding", "-c", "-o", "a.o", "a.c"], cwd=folder, check=True)
    subprocess.run(["ld", "-m", width, "-static", "-o", "a.elf", "a.o"], cwd=folder, check=True)
    return folder / "a.elf"


def test_every_row_is_objdumps(elf: Path) -> None:
    frames = CallFrames(elf.read_bytes())
    told = subprocess.run(["objdump", "--dwarf=frames-interp", elf], capture_output=True, text=True, check=True).stdout
    rows = re.findall(r"^([0-9a-f]{8,16}) ([a-z]+)([+-]\d+) .*c-(\d+) *$", told, re.MULTILINE)
    assert len(rows) > 6
    for address, register, offset, back in rows:
        rule = frames.at(int(address, 16))
        if int(address, 16):  # the rows of a CIE are at 0
            assert rule is not None
            assert (rule.cfa, rule.offset, rule.back) == (f"r{register[1:]}", int(offset), -int(back))


def test_where_no_function_is_there_is_no_rule(elf: Path) -> None:
    assert CallFrames(elf.read_bytes()).at(0x10) is None
    assert CallFrames(b"").at(0x10) is None
    assert CallFrames(b"\x7fELF" + bytes(200)).at(0x10) is None


def test_damaged_tables_give_no_rule_and_no_error(elf: Path) -> None:
    whole = bytearray(elf.read_bytes())
    headers = subprocess.run(["readelf", "-SW", elf], capture_output=True, text=True, check=True).stdout
    at, size = (int(word, 16) for word in re.findall(r"\.eh_frame +PROGBITS +[0-9a-f]+ ([0-9a-f]+) ([0-9a-f]+)", headers)[0])
    for step in range(0, size, 5):
        damaged = bytearray(whole)
        damaged[at + step] ^= 0xFF
        CallFrames(bytes(damaged)).at(0x401000)
