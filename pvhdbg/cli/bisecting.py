"""Exit codes for `git bisect run` (git-bisect(1), "Bisect run"): 0 good, 1 to 124 and 126, 127 bad, 125 cannot be tested."""

from __future__ import annotations

from pvhdbg.errors import GuestDied, PvhdbgError

GOOD = 0
BAD = 1
SKIP = 125


def exit_code(code: int, error: PvhdbgError | None = None) -> int:
    """Git's exit code for pvhdbg's own exit code and the error that ended it, if any.

    A guest that died before the goal is bad. A failure that says nothing about the commit (a missing file, a QEMU that does not
    start, a time-out, undecided rules, an internal error) is 125, skip: reported as bad it would lead git to the wrong commit.
    """
    if isinstance(error, GuestDied):
        return BAD
    return code if code in (GOOD, BAD) else SKIP
