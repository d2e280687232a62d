"""What takes more than a second in GDB reports its progress at the terminal, also while GDB itself runs the machine."""

import pytest

from tests.support.cli_runner import LOOP, ROOT, Cli, kernel_elf
from tests.support.emulator import Terminal
from tests.support.programs import need

pytestmark = [pytest.mark.boot, pytest.mark.gdb, pytest.mark.usefixtures("qemu", "gdb")]


def test_what_takes_long_says_so(cli: Cli) -> None:
    need("setsid", "gdb")
    kernel = cli.file("loop.elf", kernel_elf(LOOP))
    script = ROOT / "gdb" / "pvhdbg-gdb.py"
    words = ["gdb", "-nx", "-q", "-ex", "set confirm off", "-ex", f"source {script}", "-ex", f"set pvh kernel {kernel}"]
    env = {name: value for name, value in cli.env.items() if name != "PYTHONWARNINGS"}  # GDB's own modules warn
    with Terminal(words, {**env, "NO_COLOR": "1"}, str(cli.folder)) as at:
        at.until("(gdb)")
        at.press("pvh start\r")
        at.until("before instruction 0: 0x100000")
        at.press("pvh continue --for 2.5\r")
        at.until(" … 1 s")
        at.until("the time was up")
        at.press("quit\r")
        assert at.ended() == 0
