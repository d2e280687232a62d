"""The options of a command that needs those of its subject only."""

from __future__ import annotations

from pvhdbg.machine.options import SubjectOptions
from pvhdbg.record import NamedTuple


class AboutSubject(NamedTuple):
    """What the subject is, and how it is brought to its entry."""

    about: SubjectOptions = SubjectOptions()
