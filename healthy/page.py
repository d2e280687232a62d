"""The page docs/healthy.md: how often each healthy guest was watched, on which QEMU, and what was said of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs/healthy.md"
_HEAD = """# Healthy guests that `why` watched

`make test-healthy` boots guests that do nothing wrong, and `why` must accuse none of them. Of a guest that ends by itself
`why` must say so, and of one that runs on, that it lives. Linux boots to a first program that powers the machine off. Each run adds to the table.

| QEMU | guest | boots | end | cause |
|---|---|---|---|---|
"""
_WRONG = "\nWrong verdicts:"


def add(qemu: str, rows: Mapping[tuple[str, str, str], int], wrong: Sequence[str]) -> None:
    """Add the boots of one run."""
    table, before = Counter[tuple[str, ...]](), list[str]()
    text = PAGE.read_text() if PAGE.exists() else ""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and len(cells) == 5 and cells[2].isdigit():
            table[(cells[0], cells[1], cells[3], cells[4])] += int(cells[2])
        if line.startswith("- "):
            before.append(line)
    for (guest, kind, cause), count in rows.items():
        table[(qemu, guest, kind, cause.replace("|", "/"))] += count
    lines = [f"| {one[0]} | {one[1]} | {count} | {one[2]} | {one[3]} |" for one, count in sorted(table.items())]
    told = [*before, *(f"- {one}" for one in wrong)]
    PAGE.write_text(_HEAD + "\n".join(lines) + "\n" + _WRONG + (f"\n\n{chr(10).join(told)}\n" if told else " none.\n"))
