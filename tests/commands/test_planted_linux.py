"""Deaths that are planted in a Linux of a small configuration (tests/planted_linux): each is named with cause, place and calls."""

import os

import pytest

import pvhdbg
from planted import judge
from planted.deaths import LINUX, Planted

KERNEL, QEMU = os.environ.get("PVHDBG_PLANTED_LINUX", ""), os.environ.get("PVHDBG_QEMU")
pytestmark = [
    pytest.mark.boot,
    pytest.mark.skipif(not KERNEL, reason="the small Linux is not built here: make test-planted-linux builds it"),
]


@pytest.mark.parametrize("console", ["console=ttyS0 ", ""], ids=["serial", "silent"])
@pytest.mark.parametrize("one", LINUX, ids=[one.name for one in LINUX])
def test_a_planted_death(one: Planted, console: str) -> None:
    found = judge.of_linux(one, KERNEL, console, qemu=QEMU)
    assert judge.wrong(one, found) == ""
    assert "must never end" not in found.explanation.verdict  # Linux' last panic is not the cause: the Oops before is
    assert not one.caller or (found.calls[0].name or "").partition("+")[0] == one.place


def test_a_second_cpu_that_dies_is_told_with_its_calls() -> None:
    found = judge.of_linux(next(one for one in LINUX if one.cpu), KERNEL, qemu=QEMU)
    # By an IPI, or at once, where the first task already ran on that CPU.
    assert (found.calls[1].name or "").partition("+")[0] in ("__flush_smp_call_function_queue", "generic_exec_single")


def test_without_a_death_it_goes_on_to_its_first_program() -> None:
    """It has none, which is Linux' own panic."""
    found = pvhdbg.why(KERNEL, append="console=ttyS0", qemu=QEMU, seconds=60.0)
    assert (found.death.kind.value, found.explanation.cause) == ("panic", "panic")
    assert "No working init found" in found.explanation.verdict
