"""The options that a conversation is opened with, whichever command leads to it."""

from __future__ import annotations

from typing import NamedTuple

from pvhdbg.machine.options import SubjectOptions


class ConversationOptions(NamedTuple):
    """The subject, how it is judged, and whether the equivalent GDB commands are printed."""

    about: SubjectOptions = SubjectOptions()
    strict: bool = False
    show_gdb: bool = False
