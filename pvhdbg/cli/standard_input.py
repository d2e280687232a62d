"""`-` as the name of a file that is read: standard input, kept in a file without a name for as long as the command takes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pvhdbg.errors import BadInput

_READ = ("subject", "file", "image", "a", "b", "kernel")  # arguments that name a file to read
_READS_ITSELF = ("probe",)  # piece by piece, while the guest still writes
_PIECE = 1 << 20
_BOUND = 2 << 30  # bytes: more than any kernel has, with its debug information


@contextmanager
def spooled(command: str, values: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The values with a file that can be read again and again, also by a VMM, in the place of each `-`. Raises BadInput."""
    names = [name for name in _READ if values.get(name) == "-"]
    if not names or command in _READS_ITSELF:
        yield values
        return
    if len(names) > 1:
        raise BadInput("standard input is named twice", "give one of them as a file")
    if sys.stdin is None or sys.stdin.isatty():
        raise BadInput("- is standard input, and nothing is piped into it", "name a file, or: zcat FILE | pvhdbg elf -")
    import tempfile

    with tempfile.TemporaryFile() as file:
        size = 0
        while piece := os.read(sys.stdin.fileno(), _PIECE):
            size += len(piece)
            if size > _BOUND:
                raise BadInput(f"standard input has more than {_BOUND >> 30} GiB", "this is not a kernel")
            try:
                file.write(piece)
            except OSError as error:
                raise BadInput(f"standard input cannot be kept: {error.strerror}", "make room in TMPDIR") from error
        file.flush()
        yield {**values, names[0]: f"/proc/{os.getpid()}/fd/{file.fileno()}"}
