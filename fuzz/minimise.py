"""A failing input made small: pieces are left out as long as it fails for the same reason."""

from __future__ import annotations

import time

from fuzz.oracle import Failure, Finding, Oracle

_SECONDS = 5.0


def minimised(oracle: Oracle, data: bytes, finding: Finding) -> bytes:
    """The smallest input that was found in some seconds. What takes too long is left as it is: each try would, too."""
    if finding.kind in (Failure.TIME, Failure.MEMORY):
        return data
    deadline = time.monotonic() + _SECONDS
    size = max(len(data) // 2, 1)
    while size and time.monotonic() < deadline:
        at = 0
        while at < len(data) and time.monotonic() < deadline:
            shorter = data[:at] + data[at + size :]
            found = oracle.check(shorter)
            if found is not None and (found.kind, found.where) == (finding.kind, finding.where):
                data = shorter
            else:
                at += size
        size //= 2
    return data
