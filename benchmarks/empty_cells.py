"""A process for cells that boots nothing, so that what is measured is the machinery around the boots."""

from __future__ import annotations

from pvhdbg.sweep.cell import CellTask
from pvhdbg.sweep.result import CellOutcome, CellResult, Packed, packed_verdicts
from pvhdbg.sweep.serving import main

_VERDICTS = packed_verdicts(())
_REPORT = Packed.of("nothing was booted\n")


def work(task: CellTask) -> CellResult:
    """Conforms at once."""
    return CellResult(CellOutcome.CONFORMS, "nothing was booted", 0, verdicts=_VERDICTS, reports={"text": _REPORT})


if __name__ == "__main__":
    main(work)
