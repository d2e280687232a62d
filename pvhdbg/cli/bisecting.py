"""Exit codes as `git bisect run` reads them (git-bisect(1), "Bisect run"): 0 good, 1 to 124 and 126, 127 bad, 125 cannot be tested."""

from __future__ import annotations

from pvhdbg.errors import GuestDied, PvhdbgError

GOOD = 0
BAD = 1
SKIP = 125


def exit_code(code: int, error: PvhdbgError | None = None) -> int:
    """The code for git, of pvhdbg's own and the error that ended it, if one did.

    A guest that died on its way is bad. What says nothing about the commit (a file that is not there, a QEMU that does not start,
    no more than a time-out, undecided rules, an error of ours) is to be skipped: as bad it would lead git to the wrong commit.
    """
    if isinstance(error, GuestDied):
        return BAD
    return code if code in (GOOD, BAD) else SKIP
