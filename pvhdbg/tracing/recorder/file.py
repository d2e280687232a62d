"""A recording on disk, of a running or an ended QEMU: read on demand, and never mapped."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from pvhdbg.errors import BadInput
from pvhdbg.kernel.file_bytes import FileBytes
from pvhdbg.tracing.boot_file import BEGINNING, BootInfo, decode
from pvhdbg.tracing.recorded_numbers import BadRecording
from pvhdbg.tracing.recording import Recording
from pvhdbg.tracing.recording_layout import RecordingHeader


@contextmanager
def open_recording(path: str | os.PathLike[str]) -> Iterator[Recording]:
    """The recorder's own file, open for the context. Raises BadInput for a file that is not one."""
    name = os.fspath(path)
    with open_bytes(name, todo := "give a file that the recorder wrote") as data:
        try:
            recording = Recording(data)
        except BadRecording as error:
            raise BadInput(f"{name} is not a recording: {error}", todo) from error
        yield recording


class Wanted:
    """What the recorder of a running QEMU is asked to keep: the registers of each instruction, in QEMU's one-instruction mode."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises BadInput for a file that cannot be written to."""
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise BadInput(
                f"{os.fspath(path)} cannot be written to: {error.strerror}", "give the recording of a running QEMU"
            ) from error

    def keep(self, until: int, taken: int, *, waits: bool) -> None:
        """Keep the registers from now on, and stop before instruction `until`. `taken` records were read; with `waits` the guest waits for
        the reader where there is no more room."""
        for name, value in (("register_taken", taken), ("register_waits", int(waits)), ("register_until", until)):
            self._write(name, value)

    def taken(self, number: int) -> None:
        """So many records were read."""
        self._write("register_taken", number)

    def until(self, number: int) -> None:
        """Stop before this instruction; 0: keep no registers any more."""
        self._write("register_until", number)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _write(self, name: str, value: int) -> None:
        os.pwrite(self._file, value.to_bytes(8, "little"), RecordingHeader.offset_of(name))


def is_boot(path: str) -> bool:
    """Whether a file begins as a saved boot does, of whatever version."""
    try:
        with open_bytes(path, "") as data:
            return bytes(data[: len(BEGINNING)]) == BEGINNING
    except BadInput:
        return False


def read_boot(path: str) -> tuple[BootInfo, Recording]:
    """A saved boot, whole in memory. Raises BadInput for a file that is not one."""
    with open_bytes(path, todo := "give a file that `pvhdbg boot -o` wrote") as data:
        try:
            return decode(data)
        except BadRecording as error:
            raise BadInput(f"{path} is not a saved boot: {error}", todo) from error


@contextmanager
def open_bytes(path: str, todo: str) -> Iterator[FileBytes]:
    """The bytes of a regular file; anything else, a FIFO say, has no bytes.

    Raises BadInput with `todo` where it cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}", todo) from error
    about = os.fstat(descriptor)
    data = FileBytes(descriptor, path, about.st_size if stat.S_ISREG(about.st_mode) else 0)
    try:
        yield data
    finally:
        data.close()
