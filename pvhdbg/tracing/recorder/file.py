"""A recording on disk, of a QEMU that still writes it or of one that is gone: read where it is looked at, and never mapped."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from pvhdbg.errors import BadInput
from pvhdbg.kernel.file_bytes import FileBytes
from pvhdbg.tracing.recording import BadRecording, Recording


@contextmanager
def open_recording(path: str | os.PathLike[str]) -> Iterator[Recording]:
    """The recording at `path`, open for the context. Raises BadInput for a file that is not one."""
    name = os.fspath(path)
    todo = "give a file that the recorder wrote"
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise BadInput(f"{name} cannot be read: {error.strerror}", todo) from error
    about = os.fstat(descriptor)
    data = FileBytes(descriptor, name, about.st_size if stat.S_ISREG(about.st_mode) else 0)
    try:
        try:
            recording = Recording(data)
        except BadRecording as error:
            raise BadInput(f"{name} is not a recording: {error}", todo) from error
        yield recording
    finally:
        data.close()
