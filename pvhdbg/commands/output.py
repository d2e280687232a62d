"""The destination of an answer: standard output, or a file that is opened before the work begins and appears only when complete."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Literal, TextIO

from pvhdbg.commands.options import OutputOptions
from pvhdbg.errors import BadInput
from pvhdbg.kernel.whole_file import whole_file
from pvhdbg.record import dataclass
from pvhdbg.report.style import Style
from pvhdbg.report.wrapping import wrapped

_NARROWEST = 20  # columns


@dataclass
class Output:
    """A stream to write an answer to. A file that was not `written` stays as it was."""

    stream: TextIO
    written: bool = False
    unread: bool = False  # the reader has closed the pipe
    path: str | None = None  # of a file that appears when it is whole

    def discard(self) -> None:
        """Remove the answer of an earlier run: this run gave none, and the old one could be taken for its answer."""
        if self.path is not None:
            with suppress(OSError):
                os.unlink(self.path)

    def write(self, text: str) -> None:
        """Raises BadInput when the stream does not take it. A pipe that its reader closes early (`head`) is not an error."""
        self.put(text, flush=True)

    def show(self, text: str, paging: bool = False) -> None:
        """As `write`, for text that people read: at a terminal long lines are wrapped, and with `paging` it may go to a pager."""
        text = for_terminal(text, self.stream)
        if paging and self.stream is sys.stdout and self.stream.isatty() and text.count("\n") >= terminal_size()[1]:
            from pvhdbg.commands.pager import paged

            self.stream.flush()
            if paged(text):
                self.written = True
                return
        self.write(text)

    def put(self, text: str, flush: bool = False) -> None:
        """As `write`, for a part of a long answer: it stays in the buffer."""
        self.written = True
        encoding = self.stream.encoding or "ascii"
        try:
            # A terminal in the C locale shows what it can: the report must not be lost for a character.
            self.stream.write(text.encode(encoding, "replace").decode(encoding))
            if flush:
                self.stream.flush()
        except BrokenPipeError:
            drop(self.stream)
        except OSError as error:
            drop(self.stream)
            raise BadInput(f"the answer cannot be written: {error.strerror}", "make room, or choose another --output") from error

    def write_bytes(self, data: bytes) -> None:
        """As `write`, for bytes."""
        self.written = True
        binary = getattr(self.stream, "buffer", None)
        if binary is None:
            raise BadInput("the output takes text only", "name a file with --output")
        try:
            binary.write(data)
            binary.flush()
        except BrokenPipeError:
            self.unread = True
            drop(self.stream)
        except OSError as error:
            drop(self.stream)
            raise BadInput(f"the answer cannot be written: {error.strerror}", "make room, or choose another --output") from error


def drop(stream: TextIO) -> None:
    """Discard what `stream` still buffers, so that it does not raise again when it is closed or the interpreter exits."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, stream.fileno())
    os.close(sink)


@contextmanager
def open_output(path: str | None, append: bool = False) -> Iterator[Output]:
    """Standard output, or `path`. Raises BadInput when that cannot be written, before anything else is done.

    With `append` the file keeps its content.
    """
    if path is None or path == "-":
        if sys.stdout is None:
            raise BadInput("standard output is closed", "name a file with --output")
        yield Output(sys.stdout)
        return
    # A device, a FIFO or a link (/dev/stdout is one, even when it points to a file) is written to, never replaced.
    if append or os.path.islink(path) or (os.path.exists(path) and not os.path.isfile(path)):
        with _opened(path, "a" if append else "w") as stream:
            yield Output(stream)
        return
    if not os.path.basename(path):
        raise BadInput(f"{path!r} is not a file name", "choose another --output")
    with ExitStack() as stack:
        try:
            whole = stack.enter_context(whole_file(path))
        except OSError as error:
            raise BadInput(f"{path} cannot be written: {error.strerror}", "choose another --output") from error
        stream = stack.enter_context(os.fdopen(whole.descriptor, "w", encoding="utf-8"))
        output = Output(stream, path=path)
        yield output
        if output.written:
            try:
                stream.flush()
                whole.appear()
            except OSError as error:
                raise BadInput(f"{path} cannot be written: {error.strerror}", "choose another --output") from error


@contextmanager
def _opened(path: str, how: Literal["a", "w"]) -> Iterator[TextIO]:
    try:
        stream = open(path, how, encoding="utf-8")  # noqa: SIM115 - closed below, after the error is told apart
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror}", "choose another --output") from error
    with stream:
        yield stream


def style_for(asked: OutputOptions, stream: TextIO) -> Style:
    """Colour as asked for: `auto` is a terminal without NO_COLOR (https://no-color.org) that is not dumb."""
    choice = asked.color
    terminal = stream.isatty()
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    colour = choice == "always" or (choice == "auto" and terminal and not plain)
    if not terminal:
        return Style(colour, 100, asked.quiet)
    return Style(colour, terminal_width(), asked.quiet)


def terminal_width() -> int:
    """The columns of the terminal."""
    return max(terminal_size()[0], _NARROWEST)


def terminal_size() -> tuple[int, int]:
    """The terminal's columns and rows, as shutil.get_terminal_size gives them, whose module imports every compressor that Python has."""
    found = []
    for at, (variable, usual) in enumerate((("COLUMNS", 100), ("LINES", 24))):
        given = os.environ.get(variable, "")
        size = int(given) if given.isdecimal() else 0
        if size <= 0 and sys.__stdout__ is not None:
            with suppress(OSError, ValueError):
                size = os.get_terminal_size(sys.__stdout__.fileno())[at]
        found.append(size or usual)
    return found[0], found[1]


def for_terminal(text: str, stream: TextIO) -> str:
    """The text, wrapped for its width where the stream is a terminal."""
    return wrapped(text, terminal_width()) if stream.isatty() else text
