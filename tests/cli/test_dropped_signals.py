"""A signal that arrives where Python drops exceptions: in a destructor, or in a callback of a weak reference. It takes effect all the same."""

import subprocess
import sys

import pytest

from tests.support.cli_runner import LONGEST, ROOT

PROGRAM = """
import os, signal, sys, time
from pvhdbg import leaving
class Dies:
    def __del__(self):
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))
        for _ in range(1000):
            pass
leaving.catch()
Dies()
print("lives", flush=True)
while True:
    time.sleep(0.01)
"""


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 143), ("SIGINT", -2)])
def test_a_signal_in_a_destructor(name: str, code: int) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, name], cwd=ROOT, capture_output=True, text=True, timeout=LONGEST, check=False
    )
    assert ran.returncode == code
    assert "Exception ignored" not in ran.stderr


def test_what_is_not_a_signal_s_is_told_as_before() -> None:
    program = PROGRAM.replace("os.kill(os.getpid(), getattr(signal, sys.argv[1]))", "raise ValueError('x')").replace(
        "while True", "if 0"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, ""], cwd=ROOT, capture_output=True, text=True, timeout=LONGEST, check=False
    )
    assert "ValueError: x" in ran.stderr


EARLY = """
import os, signal, sys
from pvhdbg.cli import program
def interrupted():
    raise KeyboardInterrupt
def says(text):
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000):
        pass
    return text
program.main, program._safe = interrupted, says
sys.exit(program.program())
"""


def test_a_second_ctrl_c_before_the_handlers_are_there() -> None:
    ran = subprocess.run([sys.executable, "-c", EARLY], cwd=ROOT, capture_output=True, text=True, timeout=LONGEST, check=False)
    assert ran.returncode == 130
    assert ran.stderr.startswith("pvhdbg: interrupted")
    assert "Traceback" not in ran.stderr
