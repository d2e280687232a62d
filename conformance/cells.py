"""The cells of the table: each describes many boots of one VMM, firmware and machine by a word and a condition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from conformance.boots import Boot, Case
from conformance.host import size_of
from pvhdbg.decode.text import printable
from pvhdbg.report.rules_page import escaped, linked
from pvhdbg.rules.declare import Outcome, Rule, Verdict

# The outcomes by weight: the first that occurs represents several boots. The value is its word in a cell.
WORDS: Mapping[Outcome, str] = {
    Outcome.FAIL: "**FAIL**",
    Outcome.KNOWN: "KNOWN",
    Outcome.UNKNOWN: "unknown",
    Outcome.REMARK: "remark",
    Outcome.PASS: "pass",
    Outcome.NOT_APPLICABLE: "n/a",
}
DEVIATES = (Outcome.FAIL, Outcome.KNOWN, Outcome.UNKNOWN)


@dataclass(frozen=True)
class Column:
    """The key of a table row: a VMM's version, a machine, a firmware and the option that selected it."""

    vmm: str
    release: tuple[int, ...]
    version: str
    machine: str
    firmware: str
    bios: str

    @property
    def program(self) -> str:
        return f"{self.vmm} {self.version}"

    @property
    def names(self) -> list[str]:
        """Its first three cells: VMM and version, firmware, machine."""
        bios = f" (`-bios {self.bios}`)" if self.bios else ""
        return [escaped(self.program), f"{escaped(self.firmware)}{bios}", f"`{self.machine}`"]


def column_of(boot: Boot) -> Column:
    """The column of a boot. If another protocol hides the firmware, the column has the firmware that was recognised for the setup."""
    vmm, setup = boot.vmm, boot.case.setup
    firmware = boot.firmware or setup.firmware or "unknown firmware"
    version = printable(vmm.version or "of unknown version")
    return Column(printable(vmm.name or "unknown VMM"), vmm.release(), version, setup.machine, firmware, setup.bios or "")


def columns_of(boots: Iterable[Boot]) -> dict[Column, list[Boot]]:
    """The boots by column: VMM, version, machine, firmware."""
    columns: dict[Column, list[Boot]] = {}
    for boot in boots:
        columns.setdefault(column_of(boot), []).append(boot)
    return dict(sorted(columns.items(), key=lambda item: _order(item[0])))


def _order(column: Column) -> tuple[str, tuple[int, ...], str, str, str, str]:
    return column.vmm, column.release, column.version, column.machine, column.firmware, column.bios


def verdicts_on(boots: Sequence[Boot], rule: Rule) -> list[tuple[Case, Verdict]]:
    """The verdicts of one rule, each with its boot."""
    return [(boot.case, verdict) for boot in boots for verdict in boot.verdicts if verdict.rule.id == rule.id]


def cell(boots: Sequence[Boot], rule: Rule, outcomes: Sequence[Outcome], page: str) -> str:
    """Which of `outcomes` the rule had, and under which condition. A deviation links to its place on `page`."""
    verdicts = verdicts_on(boots, rule)
    applies = [case for case, verdict in verdicts if verdict.outcome is not Outcome.NOT_APPLICABLE]
    parts: dict[str, list[Case]] = {}
    for outcome in outcomes:
        for case, verdict in verdicts:
            if verdict.outcome is outcome:
                parts.setdefault(_word(verdict, page), []).append(case)
    return "<br>".join(f"{word} {condition(some, applies)}".rstrip() for word, some in parts.items())


def worst(boots: Sequence[Boot], rule: Rule, page: str) -> str:
    """The word of the outcome with the highest weight."""
    verdicts = [verdict for _, verdict in verdicts_on(boots, rule)]
    order = list(WORDS)
    return _word(min(verdicts, key=lambda verdict: order.index(verdict.outcome)), page) if verdicts else ""


def _word(verdict: Verdict, page: str) -> str:
    word = WORDS[verdict.outcome]
    return linked(word, verdict.deviation.key, page) if verdict.deviation is not None else word


def condition(some: Sequence[Case], all: Sequence[Case]) -> str:
    """What distinguishes `some` of `all` boots, in words: "with a module", "at 5G"; empty for all of them."""
    if len(some) == len(all):
        return ""
    guests, memory, modules = {case.guest for case in some}, {case.memory for case in some}, {case.module for case in some}
    if sum(1 for case in all if case.guest in guests and case.memory in memory and case.module in modules) != len(some):
        return f"in {len(some)} of {len(all)} boots"
    parts = []
    if modules != {case.module for case in all}:
        parts.append(_of_modules(modules, {case.module for case in all}))
    if memory != {case.memory for case in all}:
        parts.append(f"at {' and '.join(sorted(memory, key=size_of))}")
    if guests != {case.guest for case in all}:
        parts.append(f"for {', '.join(f'`{guest}`' for guest in sorted(guests))}")
    return ", ".join(parts)


def _of_modules(some: set[int], all: set[int]) -> str:
    if some == {0}:
        return "without a module"
    if some == all - {0}:
        return "with a module"
    sizes = [f"{size}" for size in sorted(some - {0})]
    return " or ".join([*(["without a module"] if 0 in some else []), f"with a module of {' or '.join(sizes)} bytes"])


def row(cells: Iterable[str]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cells)} |"
