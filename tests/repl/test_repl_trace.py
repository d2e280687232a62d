"""The tracer's commands at the prompt: from where the machine stands, and the prompt knows afterwards where that is."""

import json
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pvhdbg import guests
from tests.support import debugged
from tests.support.cli_runner import HELLO, ROOT, TRIPLE_FAULT, Cli, Start, eventually, kernel_elf
from tests.support.prompt import LONG_MODE, Talk, talking
from tests.support.terminal import Terminal

pytestmark = pytest.mark.boot

CRASHERS = str(guests.path("crashers"))
ROW = re.compile(r" +[\d,]+ ")


@pytest.fixture(scope="module")
def shared() -> Iterator[Talk]:
    """`long_mode` at its entry; tests only look."""
    with talking(LONG_MODE) as one:
        yield one


def places(text: str) -> list[str]:
    """The pcs of the events that are shown."""
    return [line.split()[2] for line in text.splitlines() if ROW.match(line)]


@pytest.mark.parametrize("via", ["remote", "gdb"])
def test_a_trace_from_here_and_on_from_there(via: str, cli: Cli) -> None:
    whole = places(cli("trace", LONG_MODE, "--what", "pc", "--until", "12").ok().out)
    with talking(LONG_MODE, via=via) as talk:
        talk("b far_jump")
        talk("b map_4g")
        text = talk("trace --what pc --until 6")
        assert places(text) == whole[:6]
        assert "(engine step)" in text
        assert talk.it.toolbar().startswith(f"stopped at {whole[6]} <map_4g+")
        assert "*eip" in talk("regs")
        assert places(talk("trace --what pc --until 3")) == whole[6:9]
        talk("si")
        assert places(talk("trace --what pc --until 1")) == whole[10:11]
        assert "far_jump" in talk("c")  # the breakpoints that were there are there again
        assert "single step" not in talk("monitor info status")
        assert "ended: reached at" in talk("trace --what calls --until print_fields")
        talk("restart")
        saved = cli.folder / "t.jsonl"
        shown = talk(f"trace --what state --until long -o {saved}")
        assert "long" in {json.loads(line).get("mode") for line in saved.read_text().splitlines()}
        assert "the guest ran on a little" in shown
        assert "64-bit long mode" in talk.it.toolbar()


@pytest.mark.parametrize("via", ["remote", "gdb"])
def test_a_guest_that_dies_in_it_leaves_the_prompt(via: str) -> None:
    with talking(CRASHERS, via=via, append="crash=wild-esp") as talk:
        text = talk("why")
        assert "push eax" in text
        assert "the stack pointer is 0xd0000000" in " ".join(text.split())
        assert talk("info registers rip").split()[-1] == "<wild_push>"  # kept for inspection
        assert "cannot run on" in talk.wrong("trace")
        assert "cannot run on" in talk.wrong("why")
        assert "cannot run on" in talk.wrong("c")
        talk("restart")
        assert "triple-faulted" in talk("trace --tail 3 --what pc")
        talk("restart")
        assert places(talk("trace --what pc --until 1")) == ["0x100000"]


@pytest.mark.parametrize("via", ["remote", "gdb"])
def test_a_machine_that_ends_itself(via: str) -> None:
    with talking(HELLO, via=via, extra=[*debugged.EXIT_DEVICE]) as talk:
        assert "exit status 33" in talk("why")
        assert "the machine is gone" in talk.wrong("milestones")
        assert talk.it.toolbar().startswith("no machine")
        talk("restart")
        assert "ended: the machine is gone" in talk("milestones")
        talk("restart")
        assert "protected mode" in talk("mode")


def test_a_reboot_in_it(machine: Start, cli: Cli) -> None:
    kernel = cli.file("k", kernel_elf(TRIPLE_FAULT))
    stub = machine(kernel=kernel)
    with talking(stub.socket, kernel=kernel) as talk:
        assert "triple fault" in talk("why")
        assert "real mode" in talk.it.toolbar()
        talk("restart")
        assert "the guest rebooted" in talk("milestones")
        assert "real mode" in talk("mode")
        assert len(places(talk("trace --what pc --until 3"))) == 3  # the next boot, from its reset vector
        talk("reset")
        assert len(places(talk("trace --what pc --until 3 --engine log"))) == 3


def test_qemu_killed_in_the_middle() -> None:
    with talking(LONG_MODE) as talk:
        talk("until halt")
        qemu = talk.it.machine.qemu
        assert qemu is not None

        def kill() -> None:
            eventually(lambda: talk.it.machine.running, "it does not run")
            os.kill(qemu.pid, signal.SIGKILL)

        thread = threading.Thread(target=kill)
        thread.start()
        result = talk.run("trace --for 20")
        thread.join()
        assert "\n" not in result.error
        assert "internal" not in result.error
        assert "the machine is gone" in talk.wrong("why")
        talk("restart")
        assert "protected mode" in talk("mode")


def test_a_recording_has_nothing_to_follow(cli: Cli) -> None:
    saved = str(cli.folder / "s.pvhsnap")
    cli("snapshot", "save", HELLO, "-o", saved).ok()
    with talking(saved) as talk:
        for line in ("trace", "milestones start_kernel"):
            assert "is a recording (boot it again" in talk.wrong(line)
        assert "it was not seen whether it runs on" in talk("why")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("trace --until nowhere", "no symbol nowhere"),
        ("trace --what calls --until long", "does not see modes"),
        ("trace x", "usage: trace"),
        ("trace --tail 0", "keeps nothing"),
        ("why --for -1", "is not a duration"),
        ("milestones nowhere", "no symbol nowhere"),
    ],
)
def test_bad_wishes(shared: Talk, line: str, words: str) -> None:
    assert words in shared.wrong(line)
    assert "protected mode" in shared("mode")


def test_milestones_from_the_middle_of_a_boot(vmlinux: Path) -> None:
    with talking(str(vmlinux)) as one:
        one("until start_kernel")
        told = one("milestones")
    assert re.search(r"^ +0  start_kernel .*\n +> [\d,]+  rest_init ", told, re.MULTILINE), told
    assert "x86_64_start_kernel" not in told  # it is over, and not waited for
    assert "higher half" not in told


def test_completion(shared: Talk) -> None:
    assert shared.it.complete("trace --until far") == ["far_jump"]
    assert "state" in shared.it.complete("trace --what ")
    assert "breakpoints" in shared.it.complete("milestones --engine ")
    assert "Usage: why [--for SECONDS]" in shared("help why")


def test_why_goes_on_to_the_prompt_at_a_terminal(cli: Cli) -> None:
    with Terminal(
        sys.executable, "-m", "pvhdbg", "why", CRASHERS, "--append", "crash=wild-esp", env={**cli.env, "PYTHONPATH": str(ROOT)}
    ) as terminal:
        said = terminal.until("(pvh)")
        assert "shut down with a triple fault" in said
        terminal.press("info registers rip\n")
        assert "rip      0x1000f4  <wild_push>" in terminal.until("<wild_push>")
        assert terminal.leave("\x04") == 0


def test_commands_behind_it_and_no_terminal(cli: Cli) -> None:
    ran = cli("why", CRASHERS, "--append", "crash=hlt", "-ex", "info registers rip").ok()
    assert "halted for good" in ran.out
    assert "after_hlt" in ran.out.splitlines()[-1]
    assert json.loads(cli("why", CRASHERS, "--append", "crash=hlt", "--format", "json").ok().out)["kind"] == "halted"
    snapshot = str(Path(cli.folder / "s"))
    cli("snapshot", "save", HELLO, "-o", snapshot).ok()
    cli("why", snapshot, "-ex", "regs").complaint(2, "does not run")
