"""What binutils make of machine code."""

import re
import subprocess
import tempfile
from typing import NamedTuple

_ROW = re.compile(r"^\s*([0-9a-f]+):\t((?:[0-9a-f]{2} )+)\s*\t?(.*)$", re.MULTILINE)
_MACHINES = {16: "i8086", 32: "i386", 64: "i386:x86-64"}


class Row(NamedTuple):
    """One instruction: its offset, its bytes' number, and its text in AT&T's syntax, with single spaces."""

    at: int
    size: int
    text: str


def listing(code: bytes, address: int, bits: int) -> list[Row]:
    """`code` at `address` as `objdump -D` divides it, from its beginning to its end."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(code)
        file.flush()
        command = [
            "objdump",
            "-D",
            "-w",
            "-b",
            "binary",
            "-m",
            _MACHINES[bits],
            "--insn-width=16",
            "-M",
            "suffix",
            f"--adjust-vma={address:#x}",
        ]
        done = subprocess.run([*command, file.name], capture_output=True, text=True, timeout=60, check=True)
    found = ((int(at, 16) - address, bytes.fromhex(data), text) for at, data, text in _ROW.findall(done.stdout))
    return [Row(at, len(data), " ".join(text.partition("#")[0].partition("<")[0].split())) for at, data, text in found]
