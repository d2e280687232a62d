"""`pvhdbg boot` and `pvhdbg goto`: whole boots recorded, compared, and gone back in."""

import json
import re
from pathlib import Path

import pytest

import pvhdbg
from pvhdbg import guests
from pvhdbg.driver.recorded_machine import stopped_at
from pvhdbg.machine.options import SubjectOptions
from pvhdbg.tracing.engines.engine import Bounds
from pvhdbg.tracing.engines.step import StepEngine
from pvhdbg.tracing.recorder.file import open_recording
from tests.support import debugged
from tests.support.cli_runner import HELLO, Cli, Machine
from tests.support.schemas import validator

pytestmark = [pytest.mark.boot, pytest.mark.usefixtures("qemu")]

LONG_MODE = str(guests.path("long_mode"))
EXIT = ("--", *debugged.EXIT_DEVICE)


def test_a_boot_is_recorded_shown_and_compared(cli: Cli, vmlinux: Path) -> None:
    """Debian's kernel to rest_init, three times: twice the same, once with a mistyped option, which the first difference names."""

    def record(name: str, append: str) -> Path:
        file = cli.folder / name
        text = cli("boot", vmlinux, "--append", append, "--until", "rest_init", "--deterministic", "--exact", "-o", file).ok().out
        assert "ended: reached at" in text
        assert file.stat().st_size < 5_000_000
        return file

    first, again, other = record("a", "console=ttyS0"), record("b", "console=ttyS0"), record("c", "consol=ttyS0")
    shown = cli("boot", "show", first, "--grep", "^(x86_64_start_kernel|start_kernel|rest_init)$").ok().out.splitlines()
    rows = [line.split() for line in shown if "—" not in line]
    steps = {row[1]: row[0] for row in rows if row[0].replace(",", "").isdigit()}
    assert list(steps) == ["x86_64_start_kernel", "start_kernel", "rest_init"]
    traced = cli("trace", vmlinux, "--deterministic", "--append", "console=ttyS0").ok().out
    reached = next(line.split()[0] for line in traced.splitlines() if line.split()[1:2] == ["rest_init"])
    assert reached == steps["rest_init"]  # a trace stops at its entry, which moves no interrupt
    with pvhdbg.launch(str(vmlinux), append="console=ttyS0", deterministic=True) as guest:
        for place in ("start_kernel", "setup_log_buf", "rest_init"):  # nor does a breakpoint
            guest.until(place)
        assert guest.qemu.recorded
        with open_recording(guest.qemu.recording) as recording:
            assert f"{recording.begun_at_a_stop:,}" == steps["rest_init"]
    there = cli("goto", vmlinux, "start_kernel", "--append", "console=ttyS0").ok().out
    assert there.startswith(f"before instruction {steps['start_kernel']} (clock:")
    assert "calibrate" in cli("boot", "profile", first, "--grep", "calibrate").ok().out
    by_function = cli("boot", "profile", first, "--most", "100000").ok().out
    note = re.search(r"the functions sum up to ([\d,]+) instructions more than the ([\d,]+) that were executed", by_function)
    assert note is not None
    more, executed = (int(number.replace(",", "")) for number in note.groups())
    spent = [int(line.split()[0].replace(",", "")) for line in by_function[by_function.rindex("  function\n") :].splitlines()[1:-2]]
    assert f"{executed:,}" == steps["rest_init"]
    assert sum(spent) == executed + more
    assert "the boots are the same" in cli("boot", "diff", first, again).ok().out
    parted = cli("boot", "diff", first, other).ok(1).out
    assert "arguments: -append console=ttyS0 | -append consol=ttyS0" in parted
    line = next(line for line in parted.splitlines() if line.startswith("  A "))
    assert line.split()[-1] == "param_setup_earlycon"


def test_goto_stops_where_the_trace_counted(cli: Cli) -> None:
    rows = [
        line.split()[:3]
        for line in cli("trace", LONG_MODE, "--what", "pc", "--engine", "log", "--until", "10291", "--tail", "20000")
        .ok()
        .out.splitlines()
        if line[:10].strip().isdigit()
    ]
    for number in (0, 7, 999, 1000, 10_283, 10_290):  # behind them the guest waits for its serial port, whose clock differs
        document = json.loads(cli("goto", LONG_MODE, str(number), "--format", "json").ok().out)
        validator("goto").validate(document)
        assert [str(document["number"]), document["pc"]] == [rows[number][0], rows[number][2]]
    place = json.loads(cli("goto", LONG_MODE, "in_long_mode", "--format", "json").ok().out)
    assert (place["number"], place["symbol"]) == (10_284, "in_long_mode")
    assert "10,284" in cli("goto", LONG_MODE, "in_long_mode#1").ok().out


def test_the_last_writer_of_an_address(cli: Cli) -> None:
    """A page directory's entry, which map_4g fills."""
    at = 0x104000 + 8 * 1500
    document = json.loads(cli("goto", LONG_MODE, "in_long_mode", "--last-write", f"{at:#x}:8", "--format", "json").ok().out)
    validator("goto").validate(document)
    writer = document["last_write"]
    assert writer["symbol"].startswith("map_4g")
    assert document["number"] == writer["number"] + 1
    text = cli("goto", LONG_MODE, "in_long_mode", "--last-write", f"{at:#x}:8").ok().out
    assert text.startswith("the last store: ")
    cli("goto", LONG_MODE, "100", "--last-write", "0x200000").complaint(3, "nothing was stored to 0x200000")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("boot", HELLO), 2, "boot has no file to write to"),
        (("boot", HELLO, "-o", "x", "--accel", "kvm"), 2, "cannot observe code that KVM executes"),
        (("boot", HELLO, "-o", "x", "--deterministic", "--", "-rtc", "base=utc"), 2, "-rtc cannot be passed on"),
        (("boot", HELLO, "-o", "x", "--until", "nosuch"), 2, "no symbol nosuch"),
        (("boot", "show", HELLO), 2, "is not a saved boot"),
        (("boot", "show", "/nonexistent"), 2, "cannot be read"),
        (("goto", HELLO, "nosuch"), 2, "no symbol nosuch"),
        (("goto", HELLO, "0x100000#zero"), 2, "does not say which time"),
        (("goto", HELLO, "5", "--last-write", "here"), 2, "is not an address"),
        (("goto", HELLO, "999999999", "--for", "2"), 3, "was not reached"),
        (("goto", HELLO, "clock:x"), 2, "is not a value of the clock"),
        (("goto", HELLO, "long"), 3, "long was not reached"),
        (("goto", HELLO, "5", "--accel", "kvm"), 2, "cannot observe code that KVM executes"),
        (("check", HELLO, "--deterministic", "--accel", "kvm"), 2, "KVM's clock is not deterministic"),
        (("check", HELLO, "--deterministic", "--", "-drive", "file=x"), 2, "a disk answers by the host's clock"),
        (("check", HELLO, "--deterministic", "--", "-serial", "stdio"), 2, "input comes when somebody types it"),
        (("check", HELLO, "--deterministic", "--", "-nic", "user"), 2, "packets come when the host sends them"),
        (("goto", HELLO, "5", "--", "-cdrom", "x"), 2, "a disk answers by the host's clock"),
    ],
)
def test_what_cannot_be_is_said_in_words(cli: Cli, words: tuple[str, ...], code: int, said: str) -> None:
    cli(*words).complaint(code, said)


@pytest.mark.parametrize("place", ["in_long_mode", "0x10007a#3"])
def test_goto_to_a_place_boots_once_and_stands_where_its_number_leads(cli: Cli, place: str) -> None:
    """Also inside of a block (in the loop of map_4g) and at the third time: number, clock, and each register."""
    ran = cli("goto", LONG_MODE, place, "--format", "json", "--verbose").ok()
    there = json.loads(ran.out)
    assert json.loads(cli("goto", LONG_MODE, str(there["number"]), "--format", "json").ok().out) == there
    assert ran.err.count("connecting to") == 1


def test_goto_on_several_cpus_stops_the_first_one_there(cli: Cli) -> None:
    """QEMU 10 and 11 crash in inline counters of several CPUs under -icount; QEMU 7 does not get on with such a clock."""
    ran = cli("goto", LONG_MODE, "5000", "--cpus", "2")
    if "QEMU 7." in ran.err:
        ran.complaint(2, "does not run several CPUs by a deterministic clock")
        return
    assert ran.ok().out.splitlines()[0] == cli("goto", LONG_MODE, "5000").ok().out.splitlines()[0]


def test_boots_of_two_cpus_are_the_same(cli: Cli, vmlinux: Path) -> None:
    """QEMU's RCU thread takes no CPU's turn. The second CPU is started before driver_init."""
    ran = cli("boot", "diff", vmlinux, vmlinux, "--append", "console=ttyS0", "--cpus", "2", "--until", "driver_init")
    if "QEMU 7." in ran.err:
        ran.complaint(2, "does not run several CPUs by a deterministic clock")
        return
    assert "several CPUs: each is compared by its own count of instructions" in ran.ok().out
    assert "the boots are the same" in ran.out


def test_where_goto_goes(cli: Cli) -> None:
    """A mode, a milestone, the clock, the death: the numbers of the trace by the same clock."""
    traced = cli("trace", LONG_MODE, "--deterministic").ok().out
    found = {row[1]: row[0] for line in traced.splitlines() if len(row := line.split()) > 2}
    for where, name in (("long", "64-bit"), ("cr0.pg", "cr0.pg"), ("64-bit", "64-bit")):
        assert cli("goto", LONG_MODE, where).ok().out.startswith(f"before instruction {found[name]} (clock:")
    assert cli("goto", LONG_MODE, "clock:12,000").ok().out.startswith("before instruction 12,000 (clock:12,000)")
    dead = json.loads(cli("goto", LONG_MODE, "death", "--format", "json").ok().out)
    earlier = json.loads(cli("goto", LONG_MODE, "death-2", "--format", "json").ok().out)
    assert dead["symbol"].startswith("halt")
    assert earlier["number"] == dead["number"] - 2


def test_a_repeated_instruction_is_one_and_many_ticks(cli: Cli, vmlinux: Path) -> None:
    """Linux clears memory by REP: the clock counts each iteration, and lands in the middle of one."""
    where = json.loads(cli("goto", vmlinux, "clock:2000000", "--format", "json").ok().out)
    assert where["clock"] == 2_000_000
    again = json.loads(cli("goto", vmlinux, str(where["number"]), "--format", "json").ok().out)
    assert (again["pc"], again["number"]) == (where["pc"], where["number"])
    assert again["clock"] < where["clock"]


def test_boots_by_the_hosts_clock_are_not_compared(cli: Cli) -> None:
    file = cli.folder / "boot"
    cli("boot", HELLO, "-o", file, *EXIT).ok()
    cli("boot", "diff", file, file).complaint(2, "record both with --deterministic")
    cli("boot", "show", file, "--kernel", LONG_MODE).complaint(2, "is not the kernel that")
    cut = cli.folder / "cut"
    cut.write_bytes(file.read_bytes()[:-10])
    cli("boot", "show", cut).complaint(2, "is not a saved boot")


def test_a_boot_that_goes_on_and_on_is_ended(cli: Cli, vmlinux: Path) -> None:
    file = cli.folder / "boot"
    ended = cli("boot", vmlinux, "--append", "console=ttyS0", "--max-instructions", "300000", "--exact", "-o", file).ok().out
    assert "ended: the requested number of instructions was reached" in ended
    assert int(ended.split()[0].replace(",", "")) >= 300_000
    assert "ended: the time was up" in cli("boot", vmlinux, "--append", "console=ttyS0", "--for", "0.5", "-o", file).ok().out
    cli("boot", HELLO, "-o", file, "--max-instructions", "0").complaint(2, "is not a number of instructions")


def test_a_stub_does_not_go_back(cli: Cli, machine: object) -> None:
    theirs: Machine = machine(kernel=HELLO)  # type: ignore[operator]
    cli("goto", theirs.socket, "5").complaint(2, "start it here, with: pvhdbg goto KERNEL WHERE")
    cli("boot", theirs.socket, "-o", "x").complaint(2, "name a kernel")
    for command in (("boot", "vmlinuz", "-o", "x"), ("goto", "vmlinuz", "5")):
        cli(*command).complaint(2, "neither a file nor an address")


def test_goto_has_the_registers_that_single_steps_lead_to() -> None:
    """Before instructions near the entry, where the recorder once did not stop, and behind them: by steps on another machine."""
    numbers = (1, 40, 699, 701, 1500)
    with pvhdbg.launch(LONG_MODE) as guest:
        stepped, done = [], 0
        for number in numbers:
            for _ in StepEngine(guest.target).batches(Bounds(count=number - done)):
                pass
            stepped.append(guest.registers)
            done = number
    for number, registers in zip(numbers, stepped, strict=True):
        with stopped_at(SubjectOptions(LONG_MODE), number, lambda _: None, 20) as machine:
            assert machine.target.read_registers() == registers
