"""A file as bytes for the decoders: read piece by piece on demand, never mapped.

If a mapped file is truncated (`cp` over the kernel during a read), SIGBUS ends the process, and every page of a mapped sparse
file that is read counts as memory. Here a truncated file raises BadInput, and only requested bytes are held.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from pvhdbg.errors import BadInput
from pvhdbg.layout import Buffer

_PIECE = 1 << 20


class FileBytes:
    """`size` bytes of an open file from `start` on. Each slice is read from the file again. Raises BadInput if the file is too short by then."""

    def __init__(self, descriptor: int, path: str, size: int, start: int = 0) -> None:
        self._descriptor, self._path, self._size, self._start = descriptor, path, size, start

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        start, end, _ = part.indices(self._size)
        pieces: list[bytes] = []
        while start < end:
            try:
                piece = os.pread(self._descriptor, end - start, self._start + start)
            except OSError as error:
                raise BadInput(f"{self._path} cannot be read: {error.strerror}", "copy it to a local file first") from error
            if not piece:
                what = f"{self._path} was truncated while it was read: it ended at {self._start + start:#x}"
                raise BadInput(what, "wait until it is written, and try again")
            pieces.append(piece)
            start += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def part(self, start: int, size: int) -> FileBytes:
        """`size` bytes from `start` on as FileBytes; they share this file and are closed with it."""
        return FileBytes(self._descriptor, self._path, size, self._start + start)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def pieces(data: Buffer) -> Iterator[bytes | memoryview]:
    """The whole buffer in order, in pieces of bounded size."""
    for start in range(0, len(data), _PIECE):
        yield data[start : start + _PIECE]
