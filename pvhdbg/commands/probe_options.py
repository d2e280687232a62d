"""The options of `probe`."""

from __future__ import annotations

from pvhdbg.commands.options import JudgeOptions
from pvhdbg.machine.options import SubjectOptions
from pvhdbg.record import NamedTuple


class ProbeOptions(NamedTuple):
    """The options of `probe`. `seconds` is the time limit of one boot, `save` the file that its log is also written to."""

    about: SubjectOptions = SubjectOptions()
    judge: JudgeOptions = JudgeOptions()
    run: str | None = None
    list: bool = False
    binary: str | None = None
    probe_memory: str | None = None
    initrds: tuple[str, ...] = ()
    probe_append: str | None = None
    seconds: float | None = None
    save: str | None = None
    fetch: bool = False
