"""The options that a conversation is opened with, whichever command leads to it."""

from __future__ import annotations

from dataclasses import dataclass, field

from pvhdbg.machine.options import SubjectOptions


@dataclass(frozen=True)
class ConversationOptions:
    """The subject, how it is judged, and whether the equivalent GDB commands are printed."""

    about: SubjectOptions = field(default_factory=SubjectOptions)
    strict: bool = False
    show_gdb: bool = False
