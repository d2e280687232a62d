"""A comparison as text and as JSON (schema `pvhdbg/diff/1`, report/schemas/diff-1.json)."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from pvhdbg.decode.text import printable
from pvhdbg.report import machine
from pvhdbg.report.diff import Comparison, Difference, Weight
from pvhdbg.report.json_text import written
from pvhdbg.report.style import PLAIN, Style

SCHEMA = "pvhdbg/diff/1"
# For each weight a meaning of Style and a heading.
TITLES = {
    Weight.MATTERS: ("bad", "What matters"),
    Weight.UNSEEN: ("warn", "Not seen on one side"),
    Weight.FREE: ("dim", "What the ABI leaves free"),
}


def render(comparison: Comparison, style: Style = PLAIN) -> str:
    """The names of both sides, then the differences by weight, then the conclusion; with a brief style what matters, and that."""
    kind = "bad" if comparison.exit_code == 1 else "warn" if comparison.exit_code else "good"
    last = f"{style(kind, comparison.conclusion)} (exit {comparison.exit_code})"
    if style.brief:
        return "".join(f"{line}\n" for line in (*_block(comparison.of(Weight.MATTERS), "bad", style), last))
    lines = []
    for letter, name, report in (("A", comparison.names[0], comparison.a), ("B", comparison.names[1], comparison.b)):
        rows = dict(machine.rows(report.boot))
        lines.append(f"{style('head', letter)}  {printable(name)}: {rows['VMM']}")
        lines.append(f"   kernel {rows['kernel']}; {report.conclusion}")
        lines += [style("warn", f"   note: {warning}") for warning in report.warnings]
    for weight, (meaning, title) in TITLES.items():
        found = comparison.of(weight)
        if found:
            lines += ["", style("head", title), *_block(found, meaning, style)]
    lines += ["", last]
    return "\n".join(lines) + "\n"


def _block(found: list[Difference], meaning: str, style: Style) -> list[str]:
    lines = []
    for part, inside in groupby(found, lambda one: one.part):
        lines.append(f"  {part}")
        for one in inside:
            why = style("dim", f"  [{one.why}]") if one.why else ""
            if len(one.a) + len(one.b) > 70:
                lines += [f"    {style(meaning, one.at)}{why}", f"      A {one.a}", f"      B {one.b}"]
            else:
                lines.append(f"    {style(meaning, f'{one.at:<18}')} {one.a} → {one.b}{why}")
    return lines


def render_json(comparison: Comparison) -> str:
    """The document as text."""
    return written(document(comparison))


def document(comparison: Comparison) -> dict[str, Any]:
    """The document as plain values; `a` and `b` of a difference are safe text."""
    sides = ((comparison.names[0], comparison.a), (comparison.names[1], comparison.b))
    return {
        "schema": SCHEMA,
        **{
            letter: {
                "subject": printable(name),
                "vmm": {"name": report.boot.snapshot.vmm.name, "version": report.boot.snapshot.vmm.version},
                "build_id": report.boot.snapshot.kernel.build_id if report.boot.snapshot.kernel else None,
                "conclusion": report.conclusion,
                "warnings": list(report.warnings),
            }
            for letter, (name, report) in zip("ab", sides, strict=True)
        },
        "spec": comparison.a.boot.revision.name,
        "strict": comparison.strict,
        "differences": [
            {"part": one.part, "at": one.at, "a": one.a, "b": one.b, "weight": one.weight.value, "why": one.why or None}
            for one in comparison.differences
        ],
        "conclusion": comparison.conclusion,
        "exit_code": comparison.exit_code,
    }
