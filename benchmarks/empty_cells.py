"""A process for cells that boots nothing: only the machinery around the boots is measured."""

from __future__ import annotations

import time

from pvhdbg.sweep.cell import CellTask
from pvhdbg.sweep.result import CellOutcome, CellResult, Packed, packed_verdicts
from pvhdbg.sweep.serving import main

SLEEP = 0.2  # seconds: a boot that waits, and takes no CPU from the others
_VERDICTS = packed_verdicts(())
_REPORT = Packed.of("nothing was booted\n")


def work(task: CellTask) -> CellResult:
    """Conforms at once; after a moment where the command line says `sleep`."""
    if task.cell.append.startswith("sleep"):
        time.sleep(SLEEP)
    return CellResult(CellOutcome.CONFORMS, "nothing was booted", 0, verdicts=_VERDICTS, reports={"text": _REPORT})


if __name__ == "__main__":
    main(work)
