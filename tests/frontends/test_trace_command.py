"""`pvhdbg trace` as a user runs it."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import jsonschema
import pytest

import pvhdbg
from pvhdbg import guests
from tests.frontends.cli_runner import Cli, Machine, eventually

pytestmark = pytest.mark.boot

LONG_MODE, CRASHERS = str(guests.path("long_mode")), str(guests.path("crashers"))
TO_LONG_MODE = 10284  # see tests/trace/test_log_engine.py
SCHEMA = json.loads((Path(pvhdbg.__file__).parent / "report/schemas/trace-1.json").read_text())


def test_milestones_are_named_and_counted(cli: Cli) -> None:
    text = cli("trace", LONG_MODE).ok().out
    rows = [line.split() for line in text.splitlines()]
    counts = {row[1]: row[0] for row in rows if row[0].replace(",", "").isdigit() and row[1] != "instructions"}
    assert list(counts) == ["entry", "cr4.pae", "cr3", "efer.lme", "cr0.pg", "efer.lma", "lgdt", "far", "64-bit", "segments"]
    assert counts["64-bit"] == f"{TO_LONG_MODE:,}"
    assert "in_long_mode" in text
    assert "halted with interrupts off" in text


def test_a_distributions_kernel_is_followed_to_start_kernel_by_its_own_names(cli: Cli, vmlinux: Path) -> None:
    text = cli("trace", vmlinux).ok().out
    names = [line.split()[1] for line in text.splitlines() if line[:12].strip().replace(",", "").isdigit()]
    assert names == [
        "entry", "lgdt", "segments", "cr4.pae", "efer.lme", "cr3", "cr0.pg", "efer.lma", "far", "64-bit", "higher", "idt",
        "x86_64_start_kernel", "start_kernel",
    ]  # fmt: skip
    assert "pvh_start_xen" in text
    assert "all that was asked for was seen" in text


def test_a_saved_trace_is_whole_valid_and_can_be_shown_again(cli: Cli) -> None:
    file = cli.folder / "boot.jsonl"
    cli("trace", LONG_MODE, "--what", "state", "--until", "long", "-o", file).ok()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    validator = jsonschema.Draft202012Validator(SCHEMA)
    for line in lines[:50] + lines[-50:]:
        validator.validate(line)
    events = [line for line in lines if "mode" in line and "milestone" not in line]
    assert [event["seq"] for event in events] == list(range(TO_LONG_MODE + 1))
    assert (events[-1]["mode"], events[-1]["symbol"]) == ("long", "in_long_mode")
    shown = cli("trace", file, "--what", "state", "--tail", "3").ok().out
    assert "ljmp 0x10" in shown
    assert "cr0.pg" in cli("trace", file).ok().out
    file.write_bytes(file.read_bytes()[:-200])
    assert "the trace is cut" in cli("trace", file).ok().out


def test_the_tail_is_the_way_to_the_death(cli: Cli) -> None:
    text = cli("trace", CRASHERS, "--append", "crash=wild-esp", "--what", "state", "--tail", "4").ok().out
    assert "push eax" in text
    assert "cr2 0xcffffffc" in text
    assert "triple-faulted" in text


def test_it_ends_at_a_symbol_before_it_is_run(cli: Cli) -> None:
    text = cli("trace", LONG_MODE, "--what", "pc", "--until", "in_long_mode").ok().out
    assert text.splitlines()[-1].startswith(f"{TO_LONG_MODE:,} instructions")
    assert "reached at 0x1000a9" in text


def test_both_engines_find_the_same_milestones(cli: Cli) -> None:
    def rows(*words: str) -> list[str]:
        return [line for line in cli("trace", CRASHERS, "--append", "crash=hlt", *words).ok().out.splitlines() if line[:12].strip().isdigit()]

    by_log, by_step = rows(), rows("--engine", "step")
    assert by_log == by_step
    assert len(by_log) > 1
    assert "(engine step)" in cli("trace", LONG_MODE, "--engine", "step", "--until", "5", "--what", "state").ok().out


def test_where_qemus_log_cannot_be_had_another_engine_does_it_and_says_why(cli: Cli, machine: object) -> None:
    strange = cli.folder / "not\nto be quoted"  # QEMU cannot be told the path of a FIFO there
    strange.mkdir()
    theirs: Machine = machine(kernel=LONG_MODE)  # type: ignore[operator]
    text = cli("trace", theirs.socket, env={"TMPDIR": str(strange)}).ok().out
    assert "note: engine breakpoints, because QEMU's log cannot be had: the path" in text
    assert "the numbers count those stops" in text
    assert "10 stops in" in text
    text = cli("trace", theirs.socket, "--here", "--what", "pc", "--until", "1", env={"TMPDIR": str(strange)}).ok().out
    assert "note: engine step, because QEMU's log cannot be had: the path" in text


def test_the_mode_switch_by_breakpoints_is_the_one_of_the_log(cli: Cli) -> None:
    def rows(*words: str) -> list[str]:
        lines = cli("trace", LONG_MODE, "--milestone", "print_fields", *words).ok().out.splitlines()
        return [line[12:] for line in lines if line[:12].strip().replace(",", "").isdigit()]

    assert rows("--engine", "breakpoints") == rows("--engine", "log")


def test_a_trace_begins_where_it_is_told_to(cli: Cli) -> None:
    def rows(*words: str) -> list[list[str]]:
        lines = cli("trace", LONG_MODE, "--what", "pc", "--engine", "log", *words).ok().out.splitlines()
        return [line.split()[:3] for line in lines if line[:10].strip().isdigit()]

    whole = rows("--until", "in_long_mode", "--tail", "20000")
    assert len(whole) == TO_LONG_MODE
    assert rows("--from", "10270", "--until", "in_long_mode") == whole[10270:]
    assert rows("--from", "compatibility", "--until", "in_long_mode") == [row for row in whole if row[1] == "compatibility"]
    from_there = rows("--from", "far_jump", "--until", "1")
    assert from_there == [["0", "compatibility", "0x100042"]]
    assert len(rows("--from", "100")) == 200
    in_function = rows("--filter", "load_cr3", "--until", "in_long_mode")
    assert [row[2] for row in in_function] == ["0x10001a", "0x10001f"]
    assert rows("--filter", "0x10001a-0x100022", "--until", "in_long_mode") == in_function


def test_a_timeline_is_drawn_of_a_file_and_of_a_boot(cli: Cli) -> None:
    file = cli.folder / "boot.jsonl"
    cli("trace", LONG_MODE, "--until", "10300", "--milestone", "print_fields", "--milestone", "0x100011", "-o", file).ok()
    drawn = cli("timeline", file).ok().out
    for word in ("protected", "compatibility", "long", "print_fields", "0x100011", "10,300 instructions"):
        assert word in drawn
    now = cli("timeline", LONG_MODE, "--until", "10300").ok().out
    assert now.splitlines()[:3] == drawn.splitlines()[:3]
    cli("trace", LONG_MODE, "--milestone", "nosuch").complaint(2, "no symbol nosuch")


def test_what_was_not_reached_is_exit_code_3(cli: Cli) -> None:
    text = cli("trace", LONG_MODE, "--until", "pae", "--for", "1").ok(3).out
    assert "pae was not reached" in text


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--until", "no_such_symbol"], "no symbol no_such_symbol"),
        (["--until", "0x10000000000000000"], "not an address"),
        (["--tail", "0"], "keeps nothing"),
        (["--from", "no_such_symbol"], "no symbol no_such_symbol"),
        (["--from", "long"], "does not go with"),
        (["--filter", "load_cr3"], "does not go with"),
        (["--what", "pc", "--filter", "no_such_symbol"], "no symbol no_such_symbol"),
        (["--what", "pc", "--filter", "0x20-0x10"], "holds no address"),
        (["--vcpu", "-1"], "not a CPU's number"),
        (["--vcpu", "1", "--engine", "step"], "the first CPU only"),
        (["--for", "0"], "not a time"),
        (["-o", "/nonexistent/x"], "cannot be written"),
        (["--", "-d", "int"], "-d and -D"),
        (["--engine", "magic"], "invalid choice"),
        (["--engine", "first"], "--what calls"),
        (["--what", "calls", "--until", "long"], "does not see modes"),
        (["--what", "calls", "--engine", "step"], "does not go with"),
    ],
)
def test_bad_wishes_are_refused(cli: Cli, words: list[str], complaint: str) -> None:
    cli("trace", LONG_MODE, *words).complaint(2, complaint)


def test_a_full_disk_is_told(cli: Cli) -> None:
    cli("trace", LONG_MODE, "--what", "state", "-o", "/dev/full").complaint(2, "cannot be written")


def test_ctrl_c_ends_it_with_what_there_is(cli: Cli) -> None:
    file = cli.folder / "t.jsonl"
    with cli.start("trace", CRASHERS, "--append", "crash=endless-loop", "--what", "pc", "--tail", "5", "-o", file) as process:
        eventually(lambda: any(path.name == "log" for path in cli.tmp.rglob("*")), "the trace does not begin", 10)
        process.send_signal(signal.SIGINT)
        ran = cli.ended(process)
    ran.ok()
    assert "ended: interrupted" in ran.out
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines[-1]["end"] == "interrupted"


def test_a_machine_of_somebody_elses_is_left_as_it_was(cli: Cli, machine: object) -> None:
    theirs: Machine = machine(kernel=LONG_MODE)  # type: ignore[operator]
    cli("trace", theirs.socket, "--until", "far_jump", "--what", "pc").ok()
    with theirs.debugger() as target:
        assert target.read_registers()["rip"] == 0x100042
        assert "single step" not in target.monitor("info status")
    text = cli("trace", theirs.socket, "--here", "--until", "2", "--what", "state").ok().out
    assert "ljmp" in text


def test_the_functions_of_a_boot_in_the_order_of_their_first_call(cli: Cli, vmlinux: Path) -> None:
    file = cli.folder / "calls.jsonl"
    cli("trace", vmlinux, "--what", "calls", "--until", "start_kernel", "-o", file).ok()
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    validator = jsonschema.Draft202012Validator(SCHEMA)
    for row in rows:
        validator.validate(row)
    names = [row["function"] for row in rows if "function" in row]
    places = {name: at for at, name in enumerate(names)}
    assert len(places) == len(names)
    assert names[:2] == ["pvh_start_xen", "xen_prepare_pvh"]
    in_order = ["startup_64", "__startup_64", "x86_64_start_kernel", "clear_bss", "x86_64_start_reservations"]
    assert [places[name] for name in in_order] == sorted(places[name] for name in in_order)
    assert "start_kernel" not in places  # it ends before that is run
    assert "xen_prepare_pvh" in cli("trace", file).ok().out


@pytest.mark.parametrize("what", ["pc", "state"])
def test_two_cpus_that_run_at_once_are_followed_one_at_a_time(cli: Cli, machine: object, vmlinux: Path, what: str) -> None:
    words = ("-smp", "2", "-m", "512M", "-append", "console=ttyS0")
    theirs: Machine = machine(*words, kernel=str(vmlinux))  # type: ignore[operator]
    with theirs.debugger() as target:
        target.resume()
        eventually(lambda: "Brought up 1 node, 2 CPUs" in theirs.serial(), "the second CPU does not come up", 20)
        target.interrupt()
    for cpu in (0, 1):
        file = cli.folder / f"{cpu}.jsonl"
        options = ("--here", "--what", what, "--until", "2000", "--for", "3", "--vcpu", str(cpu), "-o", file)
        cli("trace", theirs.socket, *options).ok()
        rows = [row for row in map(json.loads, file.read_text().splitlines()) if "mode" in row and "milestone" not in row]
        assert len(rows) == 2000
        assert {row.get("cpu", 0) for row in rows} == {cpu}


def test_a_log_that_qemu_keeps_for_somebody_else_goes_on(cli: Cli, machine: object) -> None:
    theirs_log = cli.folder / "their log"
    theirs: Machine = machine("-d", "cpu_reset", "-D", str(theirs_log), kernel=LONG_MODE)  # type: ignore[operator]
    text = cli("trace", theirs.socket, "--until", "5", "--what", "pc").ok().out
    assert "a log of its own (-d cpu_reset)" in text
    before = theirs_log.read_text()
    assert "CPU Reset" in before
    assert "Trace" not in before
    with theirs.debugger() as target:
        target.monitor("system_reset")
        eventually(lambda: theirs_log.read_text().count("CPU Reset") > before.count("CPU Reset"), "nothing more is logged")
    assert theirs_log.read_text().startswith(before)


def test_a_saved_trace_is_asked_compared_and_exported(cli: Cli) -> None:
    one, other = cli.folder / "a.jsonl", cli.folder / "b.jsonl"
    for file, count in ((one, "10300"), (other, "10290")):
        cli("trace", LONG_MODE, "--what", "state", "--until", count, "-o", file).ok()
    asked = cli("trace", "query", one, "efer").ok().out.splitlines()
    assert [line.split()[0] for line in asked] == ["10278", "10281"]
    assert "wrmsr" in asked[0]
    assert "ljmp" in cli("trace", "query", one, str(TO_LONG_MODE - 1)).ok().out
    assert "the same" in cli("trace", "diff", one, one).ok().out
    assert "they part at 10290: one trace ends here" in cli("trace", "diff", one, other).ok(1).out
    for format in ("perfetto", "tenet", "drcov", "csv", "folded"):
        cli("trace", "export", one, "--as", format, "-o", cli.folder / format).ok()
        assert (cli.folder / format).stat().st_size > 100
    cli("trace", "query", one, "cr9").complaint(2, "no change of cr9")
    cli("trace", "query", one, "99999").complaint(2, "no instruction 99999")
    cli("trace", "query", LONG_MODE, "cr0").complaint(2, "not a saved trace")
    cli("trace", "export", one, "--as", "csv", "-o", one).complaint(2, "the trace itself")
    cli("trace", "export", one, "--as", "csv", "-o", "/dev/full").complaint(2, "cannot be written")
