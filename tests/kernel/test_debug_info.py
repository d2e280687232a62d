"""Structures and lines by DWARF: what gcc lays out, in each version that it writes; and arbitrary bytes."""

import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from pvhdbg.errors import BadInput
from pvhdbg.kernel.debug_info import DebugInfo
from tests.support.cli_runner import ROOT
from tests.support.programs import need

SOURCE = """
struct much_longer_name { int x; };
struct longer_name { int a; };
struct bits { unsigned a:3; unsigned b:5; int c; unsigned long long d:40; unsigned e:1; };
union both { int a; char b[9]; };
struct every {
  int grid[2][3]; char none[0]; int *p; const char *s; char *const cp; char *restrict r; volatile int v; void *any;
  int (*call)(int); int (*row)[4]; int *rows[4]; const int five[5]; struct longer_name in[2]; struct every *self; char open[];
};
struct much_longer_name m; struct longer_name l; struct bits b; union both u; struct every e;
void pvh(void) { for (;;); }
"""
EVERY = [
    ("grid", 0, 24, "int[2][3]"), ("none", 24, 0, "char[0]"), ("p", 24, 8, "int *"), ("s", 32, 8, "const char *"),
    ("cp", 40, 8, "char * const"), ("r", 48, 8, "char * restrict"), ("v", 56, 4, "volatile int"), ("any", 64, 8, "void *"),
    ("call", 72, 8, "function *"), ("row", 80, 8, "int[4] *"), ("rows", 88, 32, "int *[4]"), ("five", 120, 20, "const int[5]"),
    ("in", 140, 8, "struct longer_name[2]"), ("self", 152, 8, "struct every *"), ("open", 160, None, "char[]"),
]  # fmt: skip
BITS = [("a", 0, 0, 3), ("b", 0, 3, 5), ("c", 4, None, None), ("d", 8, 0, 40), ("e", 13, 0, 1)]
WAYS = {
    "2": ["-gdwarf-2"], "3": ["-gdwarf-3"], "4": ["-gdwarf-4"], "5": ["-gdwarf-5"], "compressed": ["-g", "-gz"],
    "type units": ["-gdwarf-4", "-fdebug-types-section"], "64-bit": ["-gdwarf-4", "-gdwarf64"],
}  # fmt: skip


def built(folder: Path, *words: str) -> bytes:
    need("gcc")
    (folder / "k.c").write_text(SOURCE)
    command = ["gcc", *words, "-ffreestanding", "-nostdlib", "-static", "-Wl,-e,pvh", "k.c", "-o", "k"]
    subprocess.run(command, cwd=folder, check=True)
    return (folder / "k").read_bytes()


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return built(tmp_path_factory.mktemp("debug"), "-g")


@pytest.mark.parametrize("way", WAYS)
def test_layouts_are_the_compilers(way: str, tmp_path: Path) -> None:
    debug = DebugInfo(built(tmp_path, *WAYS[way]))
    every, bits, both = (debug.structure(name) for name in ("every", "bits", "both"))
    assert every is not None
    expected = [(name, offset, size, kind.replace(" restrict", "") if way == "2" else kind) for name, offset, size, kind in EVERY]
    assert [(one.name, one.offset, one.size, one.type) for one in every.members] == expected
    assert bits is not None
    assert [(one.name, one.offset, one.bit_offset, one.bit_size) for one in bits.members] == BITS
    assert both is not None
    assert (both.kind, both.size, [one.offset for one in both.members]) == ("union", 12, [0, 0])


def test_a_name_that_is_another_ones_end(kernel: bytes) -> None:
    """ld stores it as the tail of the longer one."""
    assert b"\0longer_name\0" not in kernel
    found = DebugInfo(kernel).structure("longer_name")
    assert found is not None
    assert found.members[0].name == "a"


def test_split_debug_info_is_told_from_none(tmp_path: Path) -> None:
    debug = DebugInfo(built(tmp_path, "-g", "-gsplit-dwarf"))
    assert debug.structure("bits") is None
    assert debug.is_elsewhere


def test_sections_packed_in_the_old_way_are_told(tmp_path: Path) -> None:
    """By objcopy: compilers of today do not pack them like that any more."""
    built(tmp_path, "-gdwarf-4")
    subprocess.run(["objcopy", "--compress-debug-sections=zlib-gnu", "k"], cwd=tmp_path, check=True)
    with pytest.raises(BadInput, match=r"\.zdebug"):
        DebugInfo((tmp_path / "k").read_bytes())


def header_of(data: bytes, name: str) -> tuple[int, int]:
    """File offset of the section's header, and of its content."""
    import io

    elf = ELFFile(io.BytesIO(data))
    index = elf.get_section_index(name)
    assert index is not None
    return elf["e_shoff"] + index * 64, elf.get_section(index)["sh_offset"]


@pytest.mark.parametrize("kind", [1, 8], ids=["PROGBITS", "NOBITS"])
def test_a_section_that_says_it_is_huge(kernel: bytes, kind: int) -> None:
    data, (header, _) = bytearray(kernel), header_of(kernel, ".debug_info")
    data[header + 4] = kind
    data[header + 32 : header + 40] = (1 << 33).to_bytes(8, "little")
    with pytest.raises(BadInput, match=r"\.debug_info says 0x200000000 bytes at file offset"):
        DebugInfo(bytes(data))


def test_a_packed_section_that_says_it_is_huge(tmp_path: Path) -> None:
    kernel = built(tmp_path, "-g", "-gz")
    data, (_, content) = bytearray(kernel), header_of(kernel, ".debug_info")
    data[content + 8 : content + 16] = (1 << 33).to_bytes(8, "little")
    with pytest.raises(BadInput, match=r"\.debug_info unpacks from \d+ to 8589934592 bytes"):
        DebugInfo(bytes(data))


def test_changed_debug_info_ends_in_an_answer_or_a_bad_input(kernel: bytes) -> None:
    chance = random.Random(5)
    begin, end = kernel.index(b"GNU C") - 1500, len(kernel)
    places = [header_of(kernel, name)[1] for name in (".debug_info", ".debug_abbrev", ".debug_line", ".debug_aranges")]
    since = time.process_time()
    for _ in range(150):
        data = bytearray(kernel)
        for _ in range(chance.randint(1, 6)):
            at = chance.choice([chance.choice(places) + chance.randrange(400), chance.randrange(max(begin, 0), end)])
            data[at] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
        try:
            debug = DebugInfo(bytes(data))
            for name in ("every", "bits"):
                found = debug.structure(name)
                assert found is None or len(str(found)) < 1 << 20  # numbers of any length cannot be written
            debug.line(0x401000)
        except BadInput as error:
            assert re.fullmatch(r"[^\n]+", error.what)  # noqa: PT017 - either ending is right
    assert time.process_time() - since < 20


LIMITED = """
import time
from pvhdbg.errors import BadInput
from pvhdbg.commands.time_limit import time_limit
def spin():  # a function: Python 3.13 does not catch what a signal raises at the end of a loop that stands in the `with` itself
    since = time.monotonic()
    while time.monotonic() - since < 5:
        pass
try:
    with time_limit(0.05):
        spin()
except BadInput as error:
    print(error.what)
since = time.monotonic()
with time_limit(0.5):
    pass
while time.monotonic() - since < 0.7:  # it is over, and nothing comes of it
    pass
"""


def test_a_limit_of_time_ends_what_takes_longer() -> None:
    """In a process of its own: pytest may use the same signal."""
    ran = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout == "reading the debug info timed out after 0.05 s\n"
