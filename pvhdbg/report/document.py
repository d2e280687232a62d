"""A report as data: one machine, its verdicts and the conclusion. Renderers only turn it into text."""

from __future__ import annotations

from importlib import import_module

from pvhdbg.decode.boot_state import BootState
from pvhdbg.decode.cpu_mode import runs_64_bit_code
from pvhdbg.decode.text import SafeText, printable
from pvhdbg.errors import PvhdbgError
from pvhdbg.record import dataclass, field
from pvhdbg.report.findings import CONFORMS, UNDECIDED, VIOLATED, Standing, count, standing, summary, violates
from pvhdbg.rules.declare import FileRule, MachineRule, Outcome, Rule, Verdict


@dataclass(frozen=True)
class Passed:
    """A milestone that the boot should reach after its entry. `seconds` says when; `missed` says why it was not reached.

    `instructions` is how many ran from the entry to it, where they were counted."""

    name: str
    seconds: float
    missed: str = ""
    instructions: int | None = None


@dataclass(frozen=True)
class Report:
    """The answer of `check`, `attach` and `run`. `warnings` are sentences about how it was obtained.

    `serial` holds the last lines that the guest wrote to its serial port; it is also empty if the port was not read.
    """

    boot: BootState
    verdicts: tuple[Verdict, ...]
    strict: bool = False
    warnings: tuple[SafeText, ...] = field(default=())
    serial: tuple[SafeText, ...] = field(default=())
    milestones: tuple[Passed, ...] = field(default=())
    failure: PvhdbgError | None = None  # why the machine was not observed; `boot` is then empty, and the file alone was judged

    def __repr__(self) -> str:
        return f"Report({self.conclusion!r}, exit code {self.exit_code}, {len(self.verdicts)} verdicts, {self.boot!r})"

    def to_json(self) -> str:
        """The report as `pvhdbg check --format json` prints it (schema pvhdbg/report/1)."""
        # A renderer knows its document, and is found by name as in commands.formats: the document does not know its renderers.
        text: str = import_module("pvhdbg.report.json_report").render(self)
        return text

    @property
    def summary(self) -> dict[Outcome, int]:
        """The number of verdicts of each outcome, for all outcomes."""
        return summary(self.verdicts)

    @property
    def exit_code(self) -> int:
        """0 conforms, 1 violated, 4 undecided under --strict; that of the failure for a machine that was not observed."""
        if self.failure is not None:
            return self.failure.exit_code
        standings = {standing(verdict, self.strict) for verdict in self.verdicts}
        if self.boot.other_protocol is not None or Standing.FAILED in standings:
            return VIOLATED
        return UNDECIDED if Standing.UNDECIDED in standings else CONFORMS

    @property
    def conclusion(self) -> str:
        """The verdict in one sentence."""
        if self.failure is not None:
            return f"not observed: {printable(self.failure.what)}"
        other = self.boot.other_protocol
        if other is not None:
            return f"not a PVH entry: the machine was entered by {other.title}"
        counts = self.summary
        deviations = count(counts[Outcome.KNOWN], "known deviation")
        if self.exit_code == VIOLATED:
            said = self._violated([verdict.rule for verdict in self.verdicts if violates(verdict, self.strict)])
            return said if any(violates(verdict, strict=False) for verdict in self.verdicts) else f"{said}, by --strict alone"
        unknown = count(counts[Outcome.UNKNOWN], "check") + " undecided" if counts[Outcome.UNKNOWN] else ""
        if self.exit_code == UNDECIDED:
            return f"undecided: {unknown}"
        advice = count(counts[Outcome.FAIL], "recommendation") + " not followed" if counts[Outcome.FAIL] else ""
        extra = [part for part in (advice, deviations if counts[Outcome.KNOWN] else "", unknown) if part]
        return f"the hand-off conforms to {self.boot.revision.abi}" + (f", with {' and '.join(extra)}" if extra else "")

    def _violated(self, wrong: list[Rule]) -> str:
        names: dict[str, type[Rule]] = {"the kernel file": FileRule, "the hand-off": MachineRule}
        who = " and ".join(name for name, kind in names.items() if any(isinstance(rule, kind) for rule in wrong))
        said = [f"{who} VIOLATE{'' if ' and ' in who else 'S'} {self.boot.revision.abi}"] if who else []
        own = sum(1 for rule in wrong if not isinstance(rule, FileRule | MachineRule))  # expectations of the user's own file
        return "; ".join([*said, f"{count(own, 'expectation')} NOT met"] if own else said)


def register_names(boot: BootState) -> tuple[str, ...]:
    """The general registers under the names of the CPU's mode: eax and so on, or rax to r15 in 64-bit code."""
    short = ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp", "ip")
    if not is_64_bit(boot):
        return tuple(f"e{name}" for name in short)
    return (*(f"r{name}" for name in short), *(f"r{number}" for number in range(8, 16)))


def is_64_bit(boot: BootState) -> bool:
    """Whether the CPU runs 64-bit code, as far as that was observed."""
    return runs_64_bit_code(boot.registers, boot.segments)
