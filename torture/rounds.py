"""One round: a command, a victim, one or two signals at random moments, and a look at what is left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

from pvhdbg.vmm.left_folders import AGE
from tests.support.cli_runner import HELLO, Cli, scratch
from torture import guest

CODES = frozenset({0, 1, 2, 3, 4, 129, 130, 143, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP, -signal.SIGINT})
_READ_A_MODULE = re.compile(
    r"Exception ignored in: <_io\.FileIO name='[^'\n]*\.pyc?'[^\n]*\n(?:Traceback [^\n]*\n(?:  [^\n]*\n)*)?ResourceWarning: [^\n]*\.pyc?'>\n?"
)
LONGEST = 40.0  # seconds that a command may take to leave on a loaded machine
_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGSTOP)
_PAIRS = (
    (signal.SIGINT, signal.SIGINT),
    (signal.SIGTERM, signal.SIGHUP),
    (signal.SIGHUP, signal.SIGTERM),
    (signal.SIGINT, signal.SIGTERM),
)
_STARTED = (
    ("check", "{kernel}", "--timeout", "20"),
    ("run", "{kernel}", "--batch", "--timeout", "20"),
    ("trace", "{kernel}", "--for", "3"),
    ("trace", "{kernel}", "--for", "3", "--what", "pc", "--engine", "log", "-o", "{folder}/trace.jsonl"),
    ("why", "{kernel}", "--batch", "--for", "3"),
    ("wait", "{kernel}", "--until", "0x200000", "--for", "3"),
    ("repl", "{kernel}", "--batch", "-ex", "si 50", "-ex", "regs"),
    ("check", "{kernel}", "--via", "gdb", "--timeout", "20"),
)
_ATTACHED = (
    ("check", "{stub}", "--here"),
    ("trace", "{stub}", "--here", "--for", "3", "--engine", "log"),
    ("trace", "{stub}", "--here", "--for", "3", "--engine", "step", "--until", "0x200000"),
    ("why", "{stub}", "--here", "--batch", "--for", "3"),
    ("wait", "{stub}", "--here", "--until", "0x200000", "--for", "3"),
    ("repl", "{stub}", "--here", "--batch", "-ex", "si 50", "-ex", "b 0x200000"),
    ("regs", "{stub}", "--here", "--via", "gdb"),
)


@dataclass(frozen=True)
class Plan:
    """A round before it begins; all that is random in it."""

    words: tuple[str, ...]
    attached: bool
    victims: tuple[str, ...]
    signals: tuple[signal.Signals, ...]
    moments: tuple[float, ...]  # seconds after the one before

    @property
    def kind(self) -> str:
        """The row of the figures that it counts in."""
        if self.signals in _PAIRS and self.attached:
            return "two signals at once, attached"
        return f"{self.words[0]}, {'attached' if self.attached else 'started'}{', through GDB' if 'gdb' in self.words else ''}"

    def __str__(self) -> str:
        hits = ", ".join(
            f"{number.name} to {victim} after {moment:.2f} s"
            for victim, number, moment in zip(self.victims, self.signals, self.moments, strict=True)
        )
        return f"{' '.join(self.words)}: {hits}"


@dataclass
class Result:
    """What a round came to: the signals that were sent, and what was wrong."""

    kills: int = 0
    wrong: tuple[str, ...] = ()


def plan(random: Random) -> Plan:
    """A round by chance."""
    attached = bool(random.randrange(2))
    words = random.choice(_ATTACHED if attached else _STARTED)
    victims = ["pvhdbg"] * 5 + (["keeper"] if attached else ["qemu", "guardian"]) + (["gdb", "gdb"] if "gdb" in words else [])
    times = random.choice((1, 1, 2))
    chosen = tuple(random.choice(victims) if at == 0 else "pvhdbg" for at in range(times))
    moments = (random.uniform(0.05, 1.6), *(random.uniform(0, 0.2) for _ in range(times - 1)))
    return Plan(words, attached, chosen, tuple(random.choice(_SIGNALS) for _ in chosen), moments)


def pair(random: Random) -> Plan:
    """Two signals within 150 ms to a pvhdbg that is attached: the second one meets the clean-up that the first one began."""
    moments = (random.uniform(0.3, 2.5), random.uniform(0, 0.15))
    return Plan(random.choice(_ATTACHED), True, ("pvhdbg", "pvhdbg"), random.choice(_PAIRS), moments)


def run(wanted: Plan, kernel: str) -> Result:
    """Do a round. The kernel is that of torture.guest."""
    with scratch() as folder:
        cli = Cli(folder)
        try:
            return _round(wanted, cli, kernel)
        finally:
            cli.clear()


def _round(wanted: Plan, cli: Cli, kernel: str) -> Result:
    stub = str(cli.folder / "gdb")
    machine = foreign(cli.folder, stub, kernel) if wanted.attached else None
    try:
        # A stub is left stopped unless --leave is given: the guest would notice.
        leave = ("--leave", "running") if wanted.attached else ()
        words = [word.format(kernel=HELLO, stub=stub, folder=cli.folder) for word in (*wanted.words, *leave)]
        process = cli.start(*words)
        kills = _kill(wanted, cli, process)
        wrong: list[str] = []
        try:
            _, err = process.communicate(timeout=LONGEST)
        except subprocess.TimeoutExpired:
            process.kill()
            _, err = process.communicate()
            wrong.append(f"pvhdbg did not end in {LONGEST:g} s")
        if process.returncode not in CODES:
            wrong.append(f"exit code {process.returncode}")
        err = _own(err)
        wrong += [f"{word!r} in: {err[-2000:]}" for word in ("Traceback", "internal error", "Exception ignored") if word in err]
        if not soon(lambda: not cli.processes()):
            wrong.append(f"processes are left: {[_command(pid)[:80] for pid in cli.processes()]}")
        if {"guardian", "pvhdbg"} <= {*wanted.victims}:  # no process is left to remove the folder: the next start does
            for left in cli.tmp.iterdir():
                os.utime(left, (time.time() - 2 * AGE,) * 2)
            cli.start("check", HELLO).communicate(timeout=LONGEST)
        if not soon(lambda: not os.listdir(cli.tmp)):
            wrong.append(f"files are left: {os.listdir(cli.tmp)}")
        wrong += [f"{path.name} is left" for path in cli.folder.rglob(".pvhdbg-*")]
        if machine is not None:
            wrong += undisturbed(machine, cli, stub, "keeper" in wanted.victims)
        return Result(kills, tuple(wrong))
    finally:
        if machine is not None:
            machine.kill()
            machine.wait()


def _own(said: str) -> str:
    """What pvhdbg said. Python answers a signal by itself while it starts (a Ctrl-C, with a traceback), and while it reads a module's file."""
    said = _READ_A_MODULE.sub("", said)
    return said if "/pvhdbg/" in said or not said.rstrip().endswith("KeyboardInterrupt") else ""


def foreign(folder: Path, stub: str, kernel: str) -> subprocess.Popen[bytes]:
    """A QEMU of somebody else's with a gdbstub at `stub`, whose guest runs; COM1 goes into the file `serial`. Raises RuntimeError."""
    words = ["qemu-system-x86_64", "-kernel", kernel, "-m", "64M", "-nic", "none", "-display", "none", "-monitor", "none"]
    words += ["-serial", f"file:{folder}/serial", "-gdb", f"unix:{stub},server=on,wait=off", *guest.OPTIONS]
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if not soon(lambda: os.path.exists(stub)):
        process.kill()
        raise RuntimeError("QEMU does not come up")
    return process


def _kill(wanted: Plan, cli: Cli, process: subprocess.Popen[str]) -> int:
    kills = 0
    stopped: list[int] = []
    for victim, number, moment in zip(wanted.victims, wanted.signals, wanted.moments, strict=True):
        with suppress(subprocess.TimeoutExpired):
            process.wait(moment)
        for pid in [process.pid] if victim == "pvhdbg" else _named(cli, victim):
            if victim == "pvhdbg" and process.poll() is not None:
                continue
            with suppress(ProcessLookupError):
                os.kill(pid, number)
                kills += 1
                stopped += [pid] if number is signal.SIGSTOP else []
    if stopped:
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.3)
        for pid in stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    return kills


def undisturbed(machine: subprocess.Popen[bytes], cli: Cli, stub: str, released: bool) -> list[str]:
    """What is wrong with the guest of somebody else's, which has to come to its own end. Where the keeper was killed, `release` mends it."""
    if released and machine.poll() is None:
        with suppress(subprocess.TimeoutExpired), cli.start("release", stub) as mending:
            mending.communicate(timeout=LONGEST)
    try:
        code = machine.wait(LONGEST)
    except subprocess.TimeoutExpired:
        return ["the foreign guest does not come to its end"]
    said = (cli.folder / "serial").read_text(errors="replace")
    wrong = [] if code == guest.EXIT else [f"the foreign QEMU ended with {code}"]
    return wrong + ([] if said == guest.SAID else [f"the foreign guest said {said!r}"])


def _named(cli: Cli, name: str) -> list[int]:
    """The processes of a command by what they are."""
    words = {"qemu": "qemu-system", "gdb": "gdb", "guardian": "pvhdbg-guardian", "keeper": "pvhdbg-keeper"}[name]
    found = []
    for pid in cli.processes():
        command = _command(pid).split()
        if any(words in os.path.basename(word) for word in (*command[:1], *([] if name == "gdb" else command[1:8]))):
            found.append(pid)
    return found[:1]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def soon(true: object, within: float = 15.0) -> bool:
    """Whether `true()` becomes true within so many seconds."""
    assert callable(true)
    deadline = time.monotonic() + within
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
