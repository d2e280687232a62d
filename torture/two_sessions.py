"""Two pvhdbgs at one stub: the second one is told, the first one goes on, and the foreign guest comes to its own end.

QEMU takes the second client when the first one has left, and stops the guest for it, although it is gone. The second one reports it, with
the command that lets the guest run on; the round then runs that.
"""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from tests.support.cli_runner import Cli, is_held
from torture import guest
from torture.rounds import LONGEST, foreign, soon, undisturbed

SECOND = (
    ("check", "--here", "--timeout", "0.5"),
    ("regs", "--here", "--via", "gdb", "--timeout", "1"),
)
_TURNS = 40_000_000  # of the guest, which must not end before the second one was told
_GOAL = "0x200000"  # which it never reaches


def run(words: tuple[str, ...], folder: Path) -> tuple[str, ...]:
    """What is wrong. `words` are a command of SECOND."""
    cli = Cli(folder)
    stub = str(folder / "gdb")
    machine = foreign(folder, stub, guest.write(folder, _TURNS))
    try:
        first = cli.start("wait", stub, "--here", "--until", _GOAL, "--for", "30", "--leave", "running")
        wrong = [] if soon(lambda: is_held(stub) or first.poll() is not None) else ["the first one does not connect"]
        second = cli.start(words[0], stub, *words[1:])
        out, err = second.communicate(timeout=LONGEST)
        if first.poll() is not None:
            wrong.append("the first one ended too early for this round")
        if second.returncode != 3 or out.strip() or f"pvhdbg release {stub}" not in err:
            wrong.append(f"the second one ended with {second.returncode} and was told: {out[-300:]}{err[-600:]}")
        first.send_signal(signal.SIGINT)
        out, err = first.communicate(timeout=LONGEST)
        if first.returncode not in (3, 130):  # the goal was not reached
            wrong.append(f"the first one ended with {first.returncode}: {out[-300:]}{err[-600:]}")
        wrong += [] if soon(lambda: not cli.processes()) else ["processes are left"]
        wrong += undisturbed(machine, cli, stub, released=True)
        wrong += [f"{left} is left" for left in cli.tmp.iterdir()]
        return tuple(wrong)
    except subprocess.TimeoutExpired as error:
        return (f"{error.cmd} did not end",)
    finally:
        cli.clear()
        machine.kill()
        machine.wait()
