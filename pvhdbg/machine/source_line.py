"""The source line of the pc, by the kernel file's debug info, with its text where the source file is here."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from pvhdbg.decode.text import SafeText, safe, shorten
from pvhdbg.errors import BadInput
from pvhdbg.kernel.debug_info import QUICK, DebugInfo

if TYPE_CHECKING:
    from pvhdbg.kernel.image import KernelImage
    from pvhdbg.machine.session import Session

_SOURCE = 4 << 20  # bytes of a source file
_WIDTH = 160  # characters of a line
_KNOWN = 1 << 12  # lines that are kept


class SourcePlace(NamedTuple):
    """`place` is "file:line"; `text` is that line, None where the file is not here."""

    place: SafeText
    text: SafeText | None


class SourceLines:
    """The source lines of one kernel file. Large debug info is only read once `patient` is set: that takes seconds."""

    def __init__(self, image: KernelImage) -> None:
        self.image = image
        self.patient = False
        self._debug: DebugInfo | None = None
        self._failed = False
        self._known: dict[int, SourcePlace | None] = {}

    def at(self, session: Session, linear: int) -> SourcePlace | None:
        """The line of a linear address of the stopped machine; None where that is not known."""
        placement, symbols = session.placement, session.symbols
        physical = placement.physical(linear)
        if physical is None or symbols is None or placement.found is False:
            return None
        linked = next(iter(symbols.to_virtual(physical - placement.load_bias)), None)
        return None if linked is None else self._line(linked)

    def _line(self, linked: int) -> SourcePlace | None:
        if linked not in self._known:
            debug = self._opened()
            if debug is None:
                return None
            if len(self._known) >= _KNOWN:
                self._known.clear()
            try:
                place = debug.line(linked)
            except BadInput:  # damaged debug info: the view does without
                self._failed, place = True, None
            self._known[linked] = None if place is None else SourcePlace(safe(place), self._text(place))
        return self._known[linked]

    def _opened(self) -> DebugInfo | None:
        if self._failed or (not self.patient and len(self.image.data) > QUICK):
            return None
        if self._debug is None:
            try:
                self._debug = DebugInfo(self.image.data)
            except BadInput:
                self._failed = True
        return self._debug or None

    def _text(self, place: str) -> SafeText | None:
        """The line's text. The name is the kernel file's: only a plain file is read, and a bounded part of it."""
        name, _, number = place.rpartition(":")
        path = name if os.path.isabs(name) else os.path.join(os.path.dirname(os.path.abspath(self.image.path)), name)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(descriptor, "rb") as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    return None
                lines = file.read(_SOURCE).split(b"\n")
        except (OSError, ValueError):
            return None
        at = int(number) - 1
        return shorten(safe(lines[at].expandtabs().strip()), _WIDTH) if 0 <= at < len(lines) else None
