"""The options of a command that needs those of its subject only."""

from __future__ import annotations

from typing import NamedTuple

from pvhdbg.machine.options import SubjectOptions


class AboutSubject(NamedTuple):
    """What the subject is, and how it is brought to its entry."""

    about: SubjectOptions = SubjectOptions()
