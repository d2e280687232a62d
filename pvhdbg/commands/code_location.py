"""Where a file is, in the words of code scanning: relative to its git repository, or to the folder we are in."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from pvhdbg.report.sarif import Location


def location_of(path: str) -> Location | None:
    """The location of `path`, or None when it is no file (a gdbstub's address).

    Relative to the root of the git repository that we are in, else to the current folder; a file outside has its absolute URI.
    """
    if not os.path.isfile(path):
        return None
    try:
        here = Path.cwd()
    except OSError:  # the folder we are in is gone: nothing is relative to it
        return Location(Path(path).as_uri())
    root = next((folder for folder in (here, *here.parents) if (folder / ".git").exists()), here)
    # The file's own name stays, also when it is a link: that is the name which the repository knows.
    file = Path(os.path.abspath(path))
    file = file.parent.resolve() / file.name
    try:
        inside = file.relative_to(root.resolve())
    except ValueError:
        return Location(file.as_uri())
    return Location(quote(os.fsencode(inside.as_posix())), root.resolve().as_uri())
