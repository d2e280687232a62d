"""The location of a file for code scanning: relative to its git repository, or to the current folder."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from pvhdbg.report.sarif import Location


def location_of(path: str) -> Location | None:
    """The location of `path`, or None when it is not a file (a gdbstub's address).

    Relative to the root of the current git repository, else to the current folder; a file outside has its absolute URI.
    """
    if not os.path.isfile(path):
        return None
    try:
        here = Path.cwd()
    except OSError:  # the current folder was removed: nothing is relative to it
        return Location(Path(path).as_uri())
    root = next((folder for folder in (here, *here.parents) if (folder / ".git").exists()), here)
    # A link keeps its own name: that is the name in the repository.
    file = Path(os.path.abspath(path))
    file = file.parent.resolve() / file.name
    try:
        inside = file.relative_to(root.resolve())
    except ValueError:
        return Location(file.as_uri())
    return Location(quote(os.fsencode(inside.as_posix())), root.resolve().as_uri())
