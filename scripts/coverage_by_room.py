"""Print the output of `coverage json` as one line for each room of the package (docs/architecture.md), and their sum."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import PurePath

INNER = "tracing/engines"  # a room inside a room


def room(path: str) -> str:
    """The room of a module, by its path from the checkout."""
    inside = PurePath(path).relative_to("pvhdbg")
    return INNER if inside.is_relative_to(INNER) else inside.parts[0].removesuffix(".py")


def main(report: str) -> None:
    with open(report, encoding="utf-8") as file:
        files = json.load(file)["files"]
    lines: Counter[str] = Counter()
    run: Counter[str] = Counter()
    for path, one in files.items():
        for name in (room(path), "all"):
            lines[name] += one["summary"]["num_statements"]
            run[name] += one["summary"]["covered_lines"]
    print(f"{'room':<16} {'lines':>6} {'not run':>8} {'run':>6}")
    for name in [*sorted(lines.keys() - {"all"}), "all"]:
        if lines[name]:
            print(f"{name:<16} {lines[name]:>6} {lines[name] - run[name]:>8} {100 * run[name] / lines[name]:>5.1f}%")


if __name__ == "__main__":
    main(sys.argv[1])
