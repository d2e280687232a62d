"""The prompt as a user sees it: a true terminal around the whole program, from the report to Ctrl-D."""

import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.cli_runner import HELLO, Cli, Start, eventually
from tests.support.emulator import Terminal
from tests.support.programs import need


def at_terminal(cli: Cli, *words: str | Path) -> Terminal:
    need("setsid")
    env = {**cli.env, "XDG_STATE_HOME": str(cli.folder / "state"), "NO_COLOR": "1"}
    return Terminal([sys.executable, "-m", "pvhdbg", *map(str, words)], env, str(cli.folder))


def test_a_session_at_a_terminal(machine: Start, cli: Cli, paging_kernels: Callable[[int], str]) -> None:
    """Attach, check, b, until long-mode, Ctrl-C of a running guest, QEMU killed from outside, restart, Ctrl-D."""
    kernel = paging_kernels(4)
    stub = machine(kernel=kernel)
    with at_terminal(cli, "attach", stub.socket, "--kernel", kernel) as at:
        assert "the hand-off conforms to the PVH boot ABI" in at.prompt()
        at.wait(lambda: "stopped at 0x100000 <entry> · 32-bit protected mode · CPU 0 · QEMU" in at.toolbar, "the toolbar")
        assert "PASS" in at.enter("check --select PVH-CR0")
        assert "breakpoint 1: there at 0x" in at.enter("b there")
        assert "<in_long_mode>, 64-bit long mode ──" in at.enter("until long-mode")
        at.wait(lambda: "64-bit long mode" in at.toolbar, "the toolbar")
        assert "breakpoint 1, 0xffffffff801" in at.enter("c")
        at.enter("delete")
        at.press("continue\r")
        time.sleep(0.2)  # the key is to come while the guest runs, which nothing shows
        at.press("\x03")
        assert "interrupted: 0xffffffff801" in at.prompt()
        at.press("nonsense")
        at.until("nonsense")
        at.press("\x03")
        at.prompt()
        at.press("pagew\t")
        at.until("pagewalk")  # and a blank behind it, as it is the only candidate
        at.press("the\t")
        at.until("pagewalk there")
        at.press("\r")
        assert "PML4" in at.prompt()
        at.press("\x12pagew")  # Ctrl-R
        at.until("reverse-i-search")
        at.press("\x07")
        at.wait(lambda: "i-search" not in at.text(), "the end of the search")
        stub.process.kill()
        stub.process.wait()
        at.until("the machine is gone: ")  # told above the prompt, unasked
        at.prompt()
        assert "the machine is gone" in at.enter("regs")
        assert "nothing answers" in at.enter("restart")
        at.press("\x04")
        assert at.ended() == 0
    assert "until long-mode" in (cli.folder / "state" / "pvhdbg" / "history").read_text()


@pytest.mark.boot
def test_a_started_qemu_at_a_terminal(cli: Cli) -> None:
    with at_terminal(cli, "run", HELLO, "--strict") as at:
        assert re.search(r"\(exit\s+1\)", at.prompt())
        before = cli.processes()
        at.press("c\r")
        at.until("| hello from PVH")
        at.press("\x03")
        assert re.search(r"<halt(\+0x2)?>", at.prompt())
        assert "booted again" in at.enter("restart")
        qemus = [one for one in cli.processes() if "qemu-system" in Path(f"/proc/{one}/cmdline").read_text()]
        assert len(qemus) == 1
        assert qemus[0] not in before
        at.press("kill\r")
        at.until("(y or n)")
        at.press("n\r")
        assert "not killed" in at.prompt()
        at.press("\x04")
        at.until("(d)etach")
        at.press("c\r")
        at.prompt()
        at.press("\x04")
        at.until("(d)etach")
        at.press("\r")
        assert at.ended() == 1  # the report's verdict


@pytest.mark.boot
def test_the_prompt_comes_soon_after_the_report(cli: Cli) -> None:
    with at_terminal(cli, "run", HELLO) as at:
        at.until("(exit 0)")
        since = time.monotonic()
        at.prompt()
        assert time.monotonic() - since < 0.5
        at.press("quit\r")
        assert at.ended() == 0


@pytest.mark.boot
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_signal_ends_it_and_leaves_nothing(cli: Cli, number: int) -> None:
    with at_terminal(cli, "repl", HELLO) as at:
        at.prompt()
        at.process.send_signal(number)
        assert at.ended() in (143, -9)
    eventually(lambda: not cli.processes(), "QEMU is left")


@pytest.mark.boot
def test_no_prompt_for_scripts(cli: Cli) -> None:
    with at_terminal(cli, "run", HELLO, "--batch") as at:
        at.until("(exit 0)")
        assert at.ended() == 0
    assert not (cli.folder / "state").exists()
    ran = cli("run", HELLO).ok()  # no terminal: as ever
    assert "(pvh)" not in ran.out
    assert re.search(r"\(exit 0\)\n$", ran.out)


def test_a_comparison_with_tcg_is_not_forgotten_at_a_terminal(cli: Cli) -> None:
    """There `why` leads to the prompt, which has one machine."""
    cli("why", HELLO, "--compare-tcg").complaint(2, "--accel kvm")
    cli("why", HELLO, "--compare-tcg", "-ex", "regs").complaint(2, "two machines")
    with at_terminal(cli, "why", HELLO, "--compare-tcg") as at:
        at.until("add --accel kvm")
        assert at.ended() == 2
