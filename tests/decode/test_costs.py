"""What a stranger's bytes may cost: seconds and memory, each measured in a process of its own."""

import struct
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path

import pytest

from tests.support.cli_runner import ROOT
from tests.support.elf_writer import ElfSpec

MEMORY = 500  # MB


def cost(code: str, *words: str) -> tuple[float, float, str]:
    """Seconds and MB that some code took beyond its imports, and what it printed."""
    whole = (
        "import resource, sys, time\n"
        + textwrap.dedent(code)
        + (
            "\nbegun = time.process_time()\nsaid = work()\n"
            "print(time.process_time() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, said)"
        )
    )
    ran = subprocess.run([sys.executable, "-c", whole, *words], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    seconds, memory, said = ran.stdout.rstrip().split(" ", 2)
    return float(seconds), float(memory), said


@pytest.mark.parametrize(
    "line", [" 0000000000000000-0000000000000000 (prio 0, a\\n", " 0000000000000000-0000000000000000 (prio 0, ram): a @0 \\n"]
)
def test_a_megabyte_of_info_mtree(line: str) -> None:
    seconds, _, _ = cost(
        f"""
        from pvhdbg.decode.qemu_monitor import physical_ranges
        text = 'FlatView #0\\n AS "memory", root: system\\n' + {line!r}.encode().decode("unicode_escape") * 20_000
        def work(): return len(physical_ranges(text))
        """
    )
    assert seconds < 2


def _refusal(program: str, file: Path) -> str:
    """What a reader says of a file; it takes little memory for it."""
    _, memory, said = cost(program, str(file))
    assert memory < 0.7 * MEMORY
    return said


def test_a_snapshot_of_lists(tmp_path: Path) -> None:
    path = tmp_path / "a.pvhsnap"
    path.write_text('{"schema": "pvhdbg/snapshot/1", "memory": [' + "[]," * 7_000_000 + "[]]}")
    said = _refusal(
        """
        from pvhdbg.errors import BadInput
        from pvhdbg.targets.recorded import open_snapshot
        def work():
            try: open_snapshot(sys.argv[1])
            except BadInput as error: return error.what
        """,
        path,
    )
    assert "values" in said


def test_debug_info_that_unpacks_to_a_thousand_times_its_size(tmp_path: Path) -> None:
    path = tmp_path / "bomb.elf"
    path.write_bytes(_with_packed_section(b".debug_info", 256 << 20))
    said = _refusal(
        """
        from pvhdbg.errors import BadInput
        from pvhdbg.kernel.debug_info import DebugInfo
        data = open(sys.argv[1], "rb").read()
        def work():
            try: return DebugInfo(data).line(0x100000)
            except BadInput as error: return error.what
        """,
        path,
    )
    assert "packed too tightly" in said


def _with_packed_section(name: bytes, size: int) -> bytes:
    """An ELF64 whose only sections are `name`, compressed (SHF_COMPRESSED), and the table of names."""
    kernel = bytearray(ElfSpec().encode())
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)) + packer.flush()
    data = struct.pack("<IIQQ", 1, 0, size, 1) + packed
    names = b"\0" + name + b"\0.debug_abbrev\0.debug_str\0.shstrtab\0"
    at = len(kernel)
    rows = [
        (0, 0, 0, 0, 0),
        (1, 1, 0x800, at, len(data)),
        (names.index(b".debug_abbrev"), 1, 0, at + len(data), 1),
        (names.index(b".debug_str"), 1, 0, at + len(data), 1),
        (names.index(b".shstrtab"), 3, 0, at + len(data) + 1, len(names)),
    ]
    kernel += data + b"\0" + names
    table = len(kernel)
    for where, kind, flags, offset, length in rows:
        kernel += struct.pack("<IIQQQQIIQQ", where, kind, flags, 0, offset, length, 0, 0, 1, 0)
    struct.pack_into("<Q", kernel, 0x28, table)
    struct.pack_into("<HHH", kernel, 0x3A, 64, len(rows), len(rows) - 1)
    return bytes(kernel)
