"""Deaths that are planted in a Linux of a small configuration (tests/planted_linux): each is named with cause, place and calls."""

from __future__ import annotations

import os
from typing import Any

import pytest

import pvhdbg
from pvhdbg.driver.death_watch import Diagnosis

KERNEL = os.environ.get("PVHDBG_PLANTED_LINUX", "")
pytestmark = [
    pytest.mark.boot,
    pytest.mark.skipif(not KERNEL, reason="the small Linux is not built here: make test-planted-linux builds it"),
]


def died(planted: str, console: str = "console=ttyS0 ", **more: Any) -> Diagnosis:
    return pvhdbg.why(KERNEL, append=f"{console}planted={planted}", seconds=60.0, **{"qemu": os.environ.get("PVHDBG_QEMU"), **more})


@pytest.mark.parametrize("console", ["console=ttyS0 ", ""], ids=["serial", "silent"])
@pytest.mark.parametrize(
    ("planted", "cause", "place", "caller", "words", "step"),
    [
        ("null", "null pointer", "planted_read_state", "do_one_initcall", "a read at 0x4: not present", "which register held the pointer"),
        ("bug", "stopped itself", "planted_check", "planted_init", "BUG()", "what the function above checks"),
        ("overflow", "stack overflow", "planted_recurse", "planted_recurse", "That is the stack, which is full", "calls itself"),
        ("panic", "panic", "panic", "planted_give_up", "planted: no device was found", "the reason is in its own words"),
    ],
)  # fmt: skip
def test_a_planted_panic(planted: str, cause: str, place: str, caller: str, words: str, step: str, console: str) -> None:
    found = died(planted, console)
    names = [(one.name or "").partition("+")[0] for one in found.calls]
    assert (found.death.kind.value, found.explanation.cause, names[:2]) == ("panic", cause, [place, caller])
    assert words in found.explanation.verdict
    assert step in found.explanation.next
    assert "must never end" not in found.explanation.verdict  # Linux' last panic is not the cause: the Oops before is
    assert (found.names(found.death.pc or 0) or "").partition("+")[0] == place


def test_a_second_cpu_that_dies() -> None:
    found = died("second-cpu", cpus=2)
    assert (found.death.kind.value, found.death.cpu, found.explanation.cause) == ("triple fault", 1, "stopped itself")
    assert "planted_on_second_cpu" in found.explanation.verdict
    assert "has no entry for vector 6" in found.explanation.verdict
    # By an IPI, or at once, where the first task already ran on that CPU.
    assert (found.calls[1].name or "").partition("+")[0] in ("__flush_smp_call_function_queue", "generic_exec_single")


def test_a_loop_with_interrupts_off() -> None:
    found = died("loop")
    assert (found.death.kind.value, found.explanation.cause) == ("loop", "endless loop")
    assert (found.calls[0].name or "").partition("+")[0] == "planted_init"


def test_without_a_death_it_goes_on_to_its_first_program() -> None:
    """It has none, which is Linux' own panic."""
    found = died("")
    assert (found.death.kind.value, found.explanation.cause) == ("panic", "panic")
    assert "No working init found" in found.explanation.verdict
