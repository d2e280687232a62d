"""The prompt: the time from the report to the prompt, the first completion of a symbol, and a stop's context, compared with GDB's."""

from __future__ import annotations

import os
import pty
import select
import signal
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.bench import PVHDBG, Bench, Row
from benchmarks.kernel_files import SYMBOLS, symbols_file
from pvhdbg.commands import live
from pvhdbg.kernel.image import open_kernel
from pvhdbg.machine.options import SubjectOptions
from pvhdbg.machine.session import Session
from pvhdbg.model import Snapshot
from pvhdbg.repl.conversation import Conversation
from pvhdbg.repl.options import ConversationOptions
from pvhdbg.repl.terminal import PROMPT
from pvhdbg.targets.mi import MachineInterface
from pvhdbg.targets.recorded import RecordedTarget

PROMPT_GOAL, COMPLETION_GOAL, CONTEXT_GOAL = 0.5, 0.05, 0.03  # seconds
REPORTED = b"(exit "  # the last line of a report
LONGEST = 60.0


def rows(bench: Bench) -> Iterator[Row]:
    """The goals are absolute, in seconds of pvhdbg; the ratio compares with GDB."""
    ours, theirs = bench.pair(lambda: to_prompt(bench), gdb_to_prompt)
    yield Row(
        "from the report to the prompt, at a terminal / `gdb` from its start to its own",
        ours, theirs, f"ours <= {PROMPT_GOAL} s", lambda _: statistics.median(ours) <= PROMPT_GOAL,
    )  # fmt: skip
    big = symbols_file(bench)
    found, others = bench.pair(lambda: completed(big), lambda: completed_by_gdb(big))
    yield Row(
        "first completion among 116 000 symbols / GDB's `-complete`",
        found, others, f"ours <= {COMPLETION_GOAL} s", lambda _: statistics.median(found) <= COMPLETION_GOAL,
    )  # fmt: skip

    viewed, asked = contexts(bench)
    yield Row(
        "the context of a stop / GDB's registers, code and stack over MI",
        viewed, asked, f"ours <= {CONTEXT_GOAL} s", lambda _: statistics.median(viewed) <= CONTEXT_GOAL,
    )  # fmt: skip


# --- the context of a stop ----------------------------------------------------------------------------------------

SHOWN = ("info registers", "x/6i $pc", "x/6gx $rsp")


def contexts(bench: Bench) -> tuple[list[float], list[float]]:
    """Seconds to show one stop, at another instruction each time: pvhdbg's context, and what GDB shows for `SHOWN`."""
    talk = Conversation("repl", ConversationOptions(SubjectOptions(str(bench.kernel))))
    gdb = MachineInterface(settings=("architecture i386:x86-64",))
    try:
        talk.open()
        talk.shows_context = True
        with bench.machine() as qemu:
            gdb.command(f"-target-select remote {qemu.gdb_socket}", LONGEST)
            return bench.pair(lambda: context_shown(talk), lambda: shown_by_gdb(gdb))
    finally:
        gdb.close()
        talk.close()


def context_shown(talk: Conversation) -> float:
    talk.machine.runner.step()
    began = time.perf_counter()
    text = talk.stop_view()
    took = time.perf_counter() - began
    if "=> 0x" not in text:
        raise SystemExit(f"the context is wrong: {text}")
    return took


def shown_by_gdb(gdb: MachineInterface) -> float:
    gdb.command("-exec-step-instruction", LONGEST)
    while gdb.event(time.monotonic() + LONGEST).get("message") != "stopped":
        pass
    began = time.perf_counter()
    for line in SHOWN:
        gdb.command(f'-interpreter-exec console "{line}"', LONGEST)
    return time.perf_counter() - began


# --- at a terminal ------------------------------------------------------------------------------------------------


def to_prompt(bench: Bench) -> float:
    """Seconds between the end of `run`'s report and its prompt."""
    _, reported, prompted = _watched([str(PVHDBG), "run", str(bench.kernel)], REPORTED, PROMPT.rstrip().encode())
    return prompted - reported


def gdb_to_prompt() -> float:
    began, prompted = _watched(["gdb", "-nx", "-q"], b"(gdb) ")
    return prompted - began


def _watched(command: list[str], *wanted: bytes) -> list[float]:
    """The times at which a command at a new terminal was started and had written each of `wanted`, in order."""
    times, seen = [time.perf_counter()], b""
    child, terminal = pty.fork()
    if not child:
        os.execvpe(command[0], command, {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"})
    try:
        for words in wanted:
            while words not in seen:
                if not select.select([terminal], [], [], LONGEST)[0] or time.perf_counter() - times[0] > LONGEST:
                    raise SystemExit(f"{command} does not write {words!r}: {seen[-500:]!r}")
                seen += os.read(terminal, 1 << 16)
            seen = seen.partition(words)[2]
            times.append(time.perf_counter())
        return times
    finally:
        os.kill(child, signal.SIGTERM)
        os.close(terminal)
        os.waitpid(child, 0)


# --- completion ---------------------------------------------------------------------------------------------------

WORD = f"a_symbol_of_usual_length_{SYMBOLS // 2}"


def completed(path: Path) -> float:
    """Seconds for the first completion of a session, which opens the symbol table."""
    with open_kernel(str(path)) as image:
        session = Session(RecordedTarget(Snapshot(), "nothing"), image)
        began = time.perf_counter()
        words = live.complete(session, f"symbols {WORD}")
        took = time.perf_counter() - began
    if words != [WORD]:
        raise SystemExit(f"the completion is wrong: {words}")
    return took


def completed_by_gdb(path: Path) -> float:
    """The same for GDB, which has already read the file."""
    gdb = MachineInterface()
    try:
        gdb.command(f'-file-symbol-file "{path}"', 60)
        began = time.perf_counter()
        reply = gdb.command(f'-complete "info symbol {WORD}"', 60)
        took = time.perf_counter() - began
    finally:
        gdb.close()
    if reply["payload"]["matches"] != [f"info symbol {WORD}"]:
        raise SystemExit(f"GDB's completion is wrong: {reply}")
    return took
