"""The figures of both campaigns: sums in docs/reliability.json, and the tables that docs/reliability.md shows of them."""

from __future__ import annotations

import fcntl
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pvhdbg.version import VERSION

DOCS = Path(__file__).parent.parent / "docs"
FILE, PAGE = DOCS / "reliability.json", DOCS / "reliability.md"
BEGIN, END = "<!-- figures: written by make fuzz and make torture -->", "<!-- end of the figures -->"


def add(campaign: str, name: str, on: str, **numbers: float) -> None:
    """Add numbers to those of one row. `on` names what it ran on; the version of pvhdbg and of Python is added to that."""
    with open(DOCS / "architecture.md", "rb") as lock:  # a file that is always there: both campaigns may run at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        _add(campaign, name, on, numbers)


def _add(campaign: str, name: str, on: str, numbers: Mapping[str, float]) -> None:
    figures = _read()
    key = f"pvhdbg {VERSION}, Python {platform.python_version()}, {on}"
    row = figures.setdefault(campaign, {}).setdefault(key, {}).setdefault(name, {})
    for what, number in numbers.items():
        row[what] = round(row.get(what, 0) + number, 1)
    FILE.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def write_page() -> None:
    """Put the tables into the page."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n{tables()}{END}{after}", encoding="utf-8")


def tables() -> str:
    """The tables, in Markdown."""
    lines: list[str] = []
    for campaign, columns in (("fuzz", ("inputs", "seconds", "findings")), ("torture", ("rounds", "kills", "seconds", "failures"))):
        for on, rows in sorted(_read().get(campaign, {}).items()):
            lines += ["", f"**make {campaign}**: {on}", "", f"| what | {' | '.join(columns)} |", "|---|" + "--:|" * len(columns)]
            total = {column: sum(row.get(column, 0) for row in rows.values()) for column in columns}
            for name, row in [*sorted(rows.items()), ("together", total)]:
                lines.append(f"| {name} | " + " | ".join(f"{row.get(column, 0):,.0f}" for column in columns) + " |")
    return "\n".join(lines).lstrip("\n") + "\n"


def _read() -> dict[str, Any]:
    if not FILE.exists():
        return {}
    found = json.loads(FILE.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found
