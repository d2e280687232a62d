"""A file that appears only when it is whole, and of which nothing is left when the process is killed before.

Until then it has no name (O_TMPFILE); where the file system knows no such files it has a hidden one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class WholeFile:
    """A file to be written to by `descriptor`, which the caller closes. Made by `whole_file`."""

    def __init__(self, place: int, name: str) -> None:
        self._place = place
        self._name = name
        self._hidden: str | None = None
        try:
            self.descriptor = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666, dir_fd=place)
        except OSError:
            self._hidden = _hidden_name()
            self.descriptor = os.open(self._hidden, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o666, dir_fd=place)

    def appear(self) -> None:
        """Replace the file of that name. Call it when everything is written and `descriptor` is still open. Raises OSError."""
        if self._hidden is None:
            hidden = _hidden_name()
            os.link(f"/proc/self/fd/{self.descriptor}", hidden, dst_dir_fd=self._place, follow_symlinks=True)
            self._hidden = hidden
        os.replace(self._hidden, self._name, src_dir_fd=self._place, dst_dir_fd=self._place)
        self._hidden = None

    def forget(self) -> None:
        """Remove what has not appeared."""
        if self._hidden is not None:
            with suppress(OSError):
                os.unlink(self._hidden, dir_fd=self._place)


@contextmanager
def whole_file(path: str) -> Iterator[WholeFile]:
    """A file that will be at `path`, with the permissions that any new file has. Raises OSError."""
    place = os.open(os.path.dirname(path) or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        file = WholeFile(place, os.path.basename(path))
        try:
            yield file
        finally:
            file.forget()
    finally:
        os.close(place)


def _hidden_name() -> str:
    return f".pvhdbg-{os.urandom(6).hex()}"
