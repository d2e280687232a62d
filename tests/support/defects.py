"""The defects of the sample guest `bad_loader`, as it declares them itself, and the table of them in docs/bad-loader.md.

`PYTHONPATH=. python tests/support/defects.py` writes that table anew.
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile

from pvhdbg import guests

GUEST = Path(guests.__file__).with_name("bad_loader.elf")
PAGE = Path(__file__).parents[2] / "docs" / "bad-loader.md"
HEAD = "| `defect=` | what is wrong | fails | fails with it | cannot be decided | options |\n|---|---|---|---|---|---|\n"


@dataclass(frozen=True)
class Defect:
    """One line of the guest's section `.defects`; sample_guests/bad_loader/bad_loader.S says what the fields mean."""

    name: str
    what: str
    spoils: str
    also: tuple[str, ...]
    hides: tuple[str, ...]
    needs: dict[str, Any]

    def __str__(self) -> str:
        return self.name

    def row(self) -> str:
        options = " ".join(f"`--{name} {value}`" for name, value in self.needs.items())
        cells = (f"`{self.name}`", self.what, self.spoils, " ".join(self.also), " ".join(self.hides), options)
        return f"| {' | '.join(cells)} |\n".replace("*", "\\*")


def declared() -> tuple[Defect, ...]:
    """All of them, in the order of the source."""
    with open(GUEST, "rb") as file:
        section = ELFFile(file).get_section_by_name(".defects")
        assert section is not None
        lines = section.data().decode("ascii").splitlines()
    return tuple(_parsed(*line.split("\t")) for line in lines)


def _parsed(name: str, what: str, spoils: str, also: str, hides: str, needs: str) -> Defect:
    options = dict(option.split("=") for option in needs.split())
    return Defect(name, what, spoils, tuple(also.split()), tuple(hides.split()), options)


def matching(patterns: tuple[str, ...], ids: set[str]) -> set[str]:
    """Those of `ids` that one of the patterns (an id, or its beginning and "*") means."""
    return {id for id in ids if any(fnmatchcase(id, pattern) for pattern in patterns)}


def table() -> str:
    """The table of the page."""
    return HEAD + "".join(defect.row() for defect in declared())


def page_and_table() -> tuple[str, str]:
    """The page up to its table, which is its last part, and the table on it."""
    before, head, rows = PAGE.read_text(encoding="utf-8").partition(HEAD)
    return before, head + rows


if __name__ == "__main__":
    PAGE.write_text(page_and_table()[0] + table(), encoding="utf-8")
