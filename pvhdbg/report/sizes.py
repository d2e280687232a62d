"""Sizes in a form for people."""

from __future__ import annotations


def human(size: int) -> str:
    """A size in the largest unit that keeps it exact to a tenth: "512 MiB", "639 KiB"."""
    for unit, power in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 1 << power:
            value = size / (1 << power)
            return f"{value:.0f} {unit}" if value == int(value) else f"{value:.1f} {unit}"
    return f"{size} B"
