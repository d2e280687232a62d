"""The page docs/planted-deaths.md: what each planted death is, and whether each version of QEMU shows it to `why`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs/planted-deaths.md"
_HEAD = """# Planted deaths that `why` names

`make test-planted` boots guests in which one death each is planted, with each QEMU that it is given. `why` must name the cause, the place, and a
next step that fits: [planted/deaths.py](../planted/deaths.py) says for each death what that is, and `make test` boots them with the QEMU that is
installed. `crash=` is a death of the guest [crashers](sample-guests.md#crashers), `planted=` one of a Linux that `make test-planted-linux` builds.

Not in the table: a .bss that was not cleared needs a debugger that fills it (`tests/commands/test_deaths.py`), a C kernel that stops itself in an
assertion is built with and without tables for its frames (`tests/commands/test_last_words.py`), and guests that wait for a port or for memory
live ([healthy.md](healthy.md)).
"""


def written(versions: Sequence[str], rows: Mapping[tuple[str, str], Sequence[str]]) -> str:
    """The page. `rows` gives for each guest and cause what was wrong with each version: "" for nothing."""
    named = [sum(not cells[index] for cells in rows.values()) for index in range(len(versions))]
    lines = [f"| guest | cause | {' | '.join(f'QEMU {one}' for one in versions)} |", "|---|---|" + "---|" * len(versions)]
    lines += [
        f"| {guest} | {cause} | {' | '.join('no' if cell else 'named' for cell in cells)} |"
        for (guest, cause), cells in rows.items()
    ]
    lines.append(f"| {len(rows)} deaths | | {' | '.join(f'{count} named' for count in named)} |")
    told = [
        f"- {guest}, QEMU {version}: {cell}"
        for (guest, _), cells in rows.items()
        for version, cell in zip(versions, cells, strict=True)
        if cell
    ]
    return f"{_HEAD}\n{chr(10).join(lines)}\n" + (f"\nNot named:\n\n{chr(10).join(told)}\n" if told else "")
