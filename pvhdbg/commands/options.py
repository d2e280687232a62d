"""Options that several commands share; those of a subject are in `machine.options`, those of a trace in `driver.options`."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Literal

from pvhdbg.errors import BadInput
from pvhdbg.record import NamedTuple

if TYPE_CHECKING:
    from pvhdbg.rules.declare import Rule

NOT_REACHED = 3  # the exit code when the wait timed out


class JudgeOptions(NamedTuple):
    """Which rules are applied, by id or prefix of ids, and whether advice and known deviations fail too."""

    strict: bool = False
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    def rules(self) -> tuple[Rule, ...]:
        """The rules to apply. Raises BadInput for an id that names none."""
        from pvhdbg.rules.catalogue import choose

        return choose(self.select, self.ignore)

    def refuse_unknown(self) -> None:
        """Raises BadInput for an id that names no rule, before a machine is started for nothing."""
        if self.select or self.ignore:
            self.rules()


class PromptOptions(NamedTuple):
    """The input of the prompt: `commands` are the lines of -ex ("line", text) and the files of -x ("file", path), in order."""

    commands: tuple[tuple[Literal["line", "file"], str], ...] = ()
    batch: bool = False
    show_gdb: bool = False


class Detail(Enum):
    """How much is told beside the result."""

    RESULT = "the result only"
    USUAL = "what takes long"
    STEPS = "each step with its time"


class OutputOptions(NamedTuple):
    """Destination and format of an answer; `report` are further formats with their files."""

    format: str = "text"
    output: str | None = None
    report: tuple[tuple[str, str], ...] = ()
    color: Literal["auto", "always", "never"] = "auto"
    quiet: bool = False
    verbose: bool = False

    @property
    def detail(self) -> Detail:
        """Raises BadInput for both -q and -v."""
        if self.quiet and self.verbose:
            raise BadInput("-q and -v are given together", "leave one of them out")
        return Detail.RESULT if self.quiet else Detail.STEPS if self.verbose else Detail.USUAL


class WaitOptions(NamedTuple):
    """How far a machine runs on from its entry, and for how many seconds at most."""

    until: str | None = None
    seconds: float | None = None
