"""A process for cells that boots nothing: it does what the cell's command line says. `python -m tests.support.sweep_child FD`."""

import os
import signal
import time

from pvhdbg.sweep.cell import CellTask
from pvhdbg.sweep.result import CellOutcome, CellResult, Packed
from pvhdbg.sweep.serving import main


def work(task: CellTask) -> CellResult:
    """`die` ends the process, `hang` lasts for ever, `slow` a moment; anything else conforms at once."""
    word = task.cell.append.partition(" ")[0]
    if word == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "hang":
        time.sleep(3600)
    if word == "slow":
        time.sleep(0.05)
    return CellResult(
        CellOutcome.CONFORMS, "nothing was booted", 0, place=str(os.getpid()), reports={"text": Packed.of(task.cell.append)}
    )


if __name__ == "__main__":
    main(work)
