"""Time travel at the prompt: each move lands where the step engine counted, and the machine there is one to go on with."""

import os
import re
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pvhdbg.guests import path as guest
from tests.support.cli_runner import HELLO, Machine, eventually
from tests.support.prompt import LONG_MODE, Talk, talking

pytestmark = [pytest.mark.boot, pytest.mark.usefixtures("qemu")]

CRASHERS = str(guest("crashers"))


@pytest.fixture(scope="module")
def talk() -> Iterator[Talk]:
    """`long_mode` by the deterministic clock, at whatever place the test before went to."""
    with talking(LONG_MODE, deterministic=True) as one:
        yield one


def number(text: str) -> int:
    """The number of the instruction that an answer names."""
    found = re.search(r"^before instruction ([\d,]+): ", text, re.MULTILINE)
    assert found, text
    return int(found[1].replace(",", ""))


def plain(registers: str) -> str:
    """Registers without the marks of changes since the stop before."""
    return re.sub(r" *\(was .*?\)|\*| +$", "", registers, flags=re.MULTILINE).replace(" ", "")


def test_back_undoes_each_step(talk: Talk) -> None:
    """Forward by QEMU's own steps, back by boots: the same registers, over the switch to long mode."""
    talk("goto 10279")
    seen = []
    for _ in range(8):
        seen.append(talk("info registers"))
        talk("stepi")
    assert number(talk("back")) == 10_286
    assert number(talk("back 2")) == 10_284
    assert plain(talk("info registers")) == plain(seen[5])
    for place, registers in zip(range(10_283, 10_281, -1), reversed(seen[3:5]), strict=True):
        assert number(talk("back")) == place
        assert plain(talk("info registers")) == plain(registers)
    assert "only 0 instructions" in (talk("goto entry") and talk.wrong("back"))
    assert "only 0 instructions" in talk.wrong("rsi")
    assert "cannot be gone back" in talk.wrong("back 0")


def test_breakpoints_in_both_directions(talk: Talk) -> None:
    talk("goto 10000")
    talk("b map_4g+0x31")  # in its loop
    talk("b enable_paging")
    last = number(talk("reverse-continue"))
    assert 9_990 < last < 10_000
    assert number(talk("")) == last - 5  # round the loop
    assert number(talk("c")) == last
    talk("delete 1")
    text = talk("c")
    assert text.startswith("breakpoint 2\n")
    assert "<enable_paging>" in text
    assert "hit 1 time" in talk("info breakpoints")
    talk("delete")
    assert "no breakpoint is set" in talk.wrong("rc")
    ended = talk("c")
    assert "halted with interrupts off" in ended
    assert "cannot run on" in talk.wrong("c")
    assert any("memmap_entries" in line for line in talk.written)
    talk("b print")
    assert "<print>" in talk("rc")  # also from its end
    talk("delete")
    talk("b in_long_mode")
    talk("goto 10283")
    assert "this is the entry" in talk("rc")
    talk("delete")


def test_what_the_guest_wrote_is_shown_once() -> None:
    with talking(LONG_MODE, deterministic=True) as one:
        one("goto death")
        first = [line for line in one.written if line.startswith("|")]
        assert len(first) == 10
        one("back 100")
        one("goto in_long_mode")
        assert [line for line in one.written if line.startswith("|")] == first
        one("c")
        assert [line for line in one.written if line.startswith("|")] == first * 2


def test_who_wrote_it(talk: Talk) -> None:
    talk("goto 10297")
    assert re.match(
        r"the last store: 8 bytes to 0x109008 by instruction 10,296 at 0x\w+ <print_fields\+0x3>\n", talk("last-write *$rsp")
    )
    assert number(talk("back-to-call")) == 10_296
    assert "callq" in talk("disas/1")
    talk("goto 5000")
    text = talk("last-write 0x104000:4")
    assert "by instruction " in text
    assert "<map_4g+" in text
    assert "nothing was stored to 0x1000000" in talk.wrong("last-write 0x1000000")
    assert "not a general register" in talk.wrong("last-write $cr0")
    assert "cannot be watched" in talk.wrong("last-write 0x1000:99999")
    assert "no call is known" in (talk("goto 2") and talk.wrong("back-to-call"))


def test_a_new_machine_takes_the_place_of_the_old_one() -> None:
    with talking(CRASHERS, append="crash=hlt") as one:
        before = one.it.machine.qemu
        assert "hlt" in one("goto death")
        at = number(one("back"))
        assert number(one("goto death-1")) == at
        assert before is not None
        assert before.poll() is not None  # it has ended, and its folder is gone
        assert not os.path.exists(os.path.dirname(before.gdb_socket))
        assert "conforms" in one("check")  # the hand-off is still that of this boot


def test_where_the_place_is_not_known() -> None:
    with talking(LONG_MODE) as one:
        one("until print")
        assert "ran by the host's clock" in one.wrong("back")
        assert "<print>" in one("goto print#2")
        one("gdb info registers rip")
        one("gdb stepi 3")
        assert number(one("back")) == number(one("goto print#2")) + 2
        assert "is not a destination" not in one.wrong("goto nosuch")
        assert "was not reached" in one.wrong("goto 99999")
        assert number(one("goto long")) == 10_284  # the machine stayed, and goes on
        one("kill")
        assert number(one("goto 7")) == 7
        one("restart")
        assert "only 0 instructions" in one.wrong("back")


def test_ctrl_c_leaves_the_machine_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another machine boots to a place that it never reaches; and in a run by the deterministic clock."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with talking(CRASHERS, append="crash=endless-loop", deterministic=True) as one:
        one("goto 400")
        place = one("info registers rip")

        def interrupt() -> None:
            # Its socket, not its folder: pytest's own handler does not defer a signal between the start of QEMU and our note of it.
            eventually(lambda: len(list(tmp_path.glob("*/gdb"))) == 2, "no second machine is started")
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        assert one.wrong("goto exit") == "interrupted"
        thread.join()
        assert len(list(tmp_path.iterdir())) == 1
        assert one("info registers rip") == place
        assert number(one("back")) == 399
        one("goto 399")

        def stop() -> None:
            eventually(lambda: one.it.machine.running, "it does not run")
            one.it.machine.interrupted.set()

        thread = threading.Thread(target=stop)
        thread.start()
        result = one.run("c")
        thread.join()
        assert "interrupted" in result.text + result.error
        assert number(one("goto 7")) == 7


def test_somebody_elses_machine_does_not_go_back() -> None:
    theirs = Machine(kernel=HELLO)
    try:
        with talking(theirs.socket, command="attach", kernel=HELLO) as one:
            for line in ("goto 5", "back", "rc", "last-write $rsp", "back-to-call"):
                assert "start the kernel here, with: pvhdbg repl KERNEL" in one.wrong(line)
    finally:
        theirs.close()


def test_the_same_on_a_real_kernel(vmlinux: Path) -> None:
    """setup_arch of Debian's: the call that led to it, and who wrote its return address."""
    with talking(str(vmlinux), deterministic=True, append="console=ttyS0") as one:
        one("b setup_arch")
        there = number(one("c"))
        text = one("back-to-call")
        assert number(text) == there - 1
        assert re.search(r"<start_kernel\+0x\w+>.*callq .*<setup_arch>", text, re.DOTALL)
        one("stepi")
        assert number(one("last-write *$rsp:8")) == there
        assert "this is the entry" in one("rc")
