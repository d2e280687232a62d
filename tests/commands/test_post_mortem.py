"""`why` on what is left of a machine, a core or a snapshot: only what the state proves is reported."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pvhdbg import guests, open_kernel
from pvhdbg.targets.remote import RemoteTarget
from pvhdbg.targets.target import StopKind
from tests.support.cli_runner import HELLO, Cli, Machine
from tests.support.schemas import validator

CRASHERS = str(guests.path("crashers"))
Boot = Callable[..., Machine]


def recorded(cli: Cli, theirs: Machine, kernel: str, dead: bool) -> tuple[str, str]:
    """A core and a snapshot of a machine that runs until it shuts down, or is stopped after a moment."""
    core = str(cli.folder / "core")
    with theirs.debugger() as target:
        target.resume()
        if dead:
            assert target.wait(10).kind is StopKind.SHUTDOWN
        else:
            time.sleep(1.0)
            target.interrupt()
        target.monitor(f"dump-guest-memory {core}")
    cli("snapshot", "save", theirs.socket, "--here", "--kernel", kernel, "-o", "end.pvhsnap").ok()
    return core, "end.pvhsnap"


def why(cli: Cli, subject: str, *words: str, code: int = 0) -> Any:
    found = cli("why", subject, *words, "--format", "json").ok(code).json()
    validator("why").validate(found)
    return found


@pytest.mark.parametrize(
    ("crash", "kind", "cause", "symbol", "words"),
    [
        ("wild-esp", "left", "wild stack", "wild_push", "the IDT (limit 0x0) has no entry for vector 14"),
        ("non-canonical", "left", "non-canonical address", "non_canonical_read", "a read at 0x800000001000"),
        ("divide", "left", "divide by zero", "divide_by_zero", "the divisor is 0"),
        ("endless-loop", "loop", "endless loop", "endless_loop", "Nothing in it can end it"),
        ("hlt", "halted", "halted", "after_hlt", "eflags.IF is 0"),
        ("zeros", "zeros", "zeros", None, "memory that was never written"),
    ],
)
def test_a_death_that_the_state_proves(
    cli: Cli, machine: Boot, crash: str, kind: str, cause: str, symbol: str | None, words: str
) -> None:
    theirs = machine("-no-reboot", "-no-shutdown", "-m", "64M", "-append", f"crash={crash}", kernel=CRASHERS)
    for subject in recorded(cli, theirs, CRASHERS, kind == "left"):
        found = why(cli, subject, "--kernel", CRASHERS)
        assert (found["kind"], found["cause"], found["symbol"]) == (kind, cause, symbol)
        assert words in found["verdict"]
        assert (found["path"], found["instructions"]) == ([], None)
        assert found["there"]
        assert sum("how it came there was not recorded" in one for one in found["warnings"]) == 1


def test_the_cpu_that_must_have_faulted_is_found_in_a_core(cli: Cli, machine: Boot) -> None:
    theirs = machine("-no-reboot", "-no-shutdown", "-m", "64M", "-smp", "2", "-append", "crash=second-cpu", kernel=CRASHERS)
    core, _ = recorded(cli, theirs, CRASHERS, True)
    found = why(cli, core, "--kernel", CRASHERS)
    assert (found["cpu"], found["cause"], found["pc"], found["mode"]) == (1, "stopped itself", "0x8007", "real")
    assert why(cli, core, "--kernel", CRASHERS, "--vcpu", "0", code=3)["symbol"].startswith("second_cpu_wait")
    cli("why", core, "--vcpu", "2").complaint(2, "no CPU 2")


def test_a_living_machine_that_was_saved_is_not_called_dead(cli: Cli, machine: Boot) -> None:
    theirs = machine(kernel=HELLO)
    cli("snapshot", "save", theirs.socket, "-o", "entry.pvhsnap").ok()
    found = why(cli, "entry.pvhsnap", code=3)
    assert (found["kind"], found["cause"]) == ("left", "left")
    assert "it was not seen whether it runs on" in found["verdict"]


def callers_of_panic(found: Any) -> list[str]:
    """The chain above `panic`, which ends in a loop: two stops show it, and what it calls, at different instructions."""
    symbols = [str(one["symbol"]) for one in found["calls"]]
    return symbols[[one.partition("+")[0] for one in symbols].index("panic") + 1 :]


@pytest.mark.slow
def test_the_core_of_a_linux_that_kaslr_moved(cli: Cli, machine: Boot, vmlinux: Path, vmlinuz: Path) -> None:
    theirs = machine("-m", "512M", "-append", "console=ttyS0", kernel=str(vmlinuz))
    core = str(cli.folder / "core")
    with theirs.debugger() as target:
        target.resume()
        deadline = time.monotonic() + 60
        while "end Kernel panic" not in theirs.serial() and time.monotonic() < deadline:
            time.sleep(0.2)
        target.interrupt()
        target.monitor(f"dump-guest-memory {core}")
    live = why(cli, theirs.socket, "--here", "--for", "2", "--kernel", str(vmlinux))
    found = why(cli, core, "--kernel", str(vmlinux))
    assert callers_of_panic(live) == callers_of_panic(found)
    assert (live["kind"], live["words"]) == ("panic", found["words"])
    assert (found["kind"], found["cause"]) == ("panic", "panic")
    assert "VFS: Unable to mount root fs" in found["verdict"]
    assert callers_of_panic(found)[0].partition("+")[0] in ("mount_block_root", "mount_root_generic")  # Linux 6.1, Linux 6.12
    assert {one["by"] for one in found["calls"][1:]} == {"orc"}
    assert not any("differs" in one for one in found["warnings"])
    unnamed = why(cli, core)  # the buffer is found without the kernel's file
    assert (unnamed["kind"], unnamed["symbol"]) == ("panic", None)


def test_what_shows_no_end_is_refused(cli: Cli) -> None:
    log = next((Path(__file__).parents[1] / "data/probe-logs").iterdir())
    cli("why", str(log)).complaint(2, "a log, which shows no end")


# Where Linux' first stack and those of its threads begin, in 6.1 and in 6.12.
ROOTS = ("secondary_startup_64_no_verify", "common_startup_64", "ret_from_fork", "ret_from_fork_asm")

STOPS = ("__x86_indirect_thunk_array", "update_process_times", "exc_nmi", "native_flush_tlb_one_user")


@pytest.mark.slow
def test_the_chain_of_a_linux_leads_out_of_a_retpoline_and_of_the_stack_of_interrupts(
    cli: Cli, machine: Boot, vmlinux: Path, vmlinuz: Path
) -> None:
    theirs = machine("-m", "128M", "-append", "nokaslr", kernel=str(vmlinuz))
    core = str(cli.folder / "core")
    with open_kernel(str(vmlinux)) as image:
        at = {name: image.symbols().virtual_address(name) for name in STOPS}

    def calls(target: RemoteTarget) -> list[dict[str, Any]]:
        target.monitor(f"dump-guest-memory {core}")
        found: list[dict[str, Any]] = why(cli, core, "--kernel", str(vmlinux), code=3)["calls"]
        return found

    def chain(target: RemoteTarget) -> list[str]:
        return [str(one["symbol"]).partition("+")[0] for one in calls(target)]

    def run_to(target: RemoteTarget, name: str) -> None:
        target.set_breakpoint(at[name])
        target.resume()
        assert target.wait(20).kind is StopKind.BREAKPOINT
        target.clear_breakpoint(at[name])

    with theirs.debugger() as target:
        run_to(target, "__x86_indirect_thunk_array")
        chains = [chain(target)]
        for _ in range(2):  # the call into the retpoline, and the store of where its return leads to
            target.step()
            chains.append(chain(target))
        assert chains[0] == chains[1] == chains[2]
        assert len(chains[0]) > 2
        assert chains[0][-1] in ROOTS
        run_to(target, "update_process_times")
        of_the_tick = chain(target)
        entry = next(index for index, name in enumerate(of_the_tick) if name.startswith("asm_"))
        assert len(of_the_tick) > entry + 1
        assert of_the_tick[-1] in ROOTS
        target.monitor("nmi")  # it interrupts the first instruction of that function
        run_to(target, "exc_nmi")
        of_the_nmi = chain(target)
        assert of_the_nmi[of_the_nmi.index("update_process_times") :] == of_the_tick
        run_to(target, STOPS[-1])  # in the file it is called through a pointer, in memory directly
        back = int.from_bytes(target.read_linear(target.read_registers()["rsp"], 8), "little")
        assert int(calls(target)[1]["pc"], 16) == back
