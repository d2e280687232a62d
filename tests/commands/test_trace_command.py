"""`pvhdbg trace` as a user runs it."""

import json
import re
import resource
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from pvhdbg import guests
from pvhdbg.driver.saved_traces import saved
from pvhdbg.report.exports.catalogue import export
from tests.support import trace_readers as readers
from tests.support.cli_runner import HELLO, TRIPLE_FAULT, Cli, Machine, eventually, kernel_elf, reads_the_log
from tests.support.schemas import validator

pytestmark = pytest.mark.boot

LONG_MODE, CRASHERS = str(guests.path("long_mode")), str(guests.path("crashers"))
QBOOT = ("-bios", "qboot.rom")  # firmware of 15 000 to 43 000 instructions; newer QEMUs take SeaBIOS for microvm, of six million
FAR = 45000  # behind the second boot
TO_LONG_MODE = 10284  # see tests/tracing/test_log_engine.py


def test_milestones_are_named_and_counted(cli: Cli) -> None:
    text = cli("trace", LONG_MODE).ok().out
    rows = [line.split() for line in text.splitlines()]
    counts = {row[1]: row[0] for row in rows if row[0].replace(",", "").isdigit() and row[1] != "instructions"}
    assert list(counts) == ["entry", "cr4.pae", "cr3", "efer.lme", "cr0.pg", "efer.lma", "lgdt", "far", "64-bit", "segments"]
    assert counts["64-bit"] == f"{TO_LONG_MODE:,}"
    assert "in_long_mode" in text
    assert "halted with interrupts off" in text


def test_a_distributions_kernel_is_followed_to_start_kernel_by_its_own_names(cli: Cli, vmlinux: Path) -> None:
    *rows, _ = cli("trace", vmlinux).ok().out.splitlines()
    text = "\n".join(rows)
    names = [line.split()[1] for line in rows if line[:12].strip().replace(",", "").isdigit()]
    assert names == [
        "entry", "lgdt", "segments", "cr4.pae", "efer.lme", "cr3", "cr0.pg", "efer.lma", "far", "64-bit", "higher", "idt",
        "x86_64_start_kernel", "start_kernel", "rest_init",
    ]  # fmt: skip
    assert "pvh_start_xen" in text
    assert " > " not in text  # all of them are counted


def test_a_saved_trace_is_whole_valid_and_can_be_shown_again(cli: Cli) -> None:
    file = cli.folder / "boot.jsonl"
    cli("trace", LONG_MODE, "--what", "state", "--until", "long", "-o", file).ok()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in (*lines[:50], *lines[-50:], *(one for one in lines if "milestone" in one or "fault" in one)):
        validator("trace").validate(line)
    assert lines[1]["state"]["rsp"] != lines[1]["changes"]["rsp"]
    events = [line for line in lines if "mode" in line and "milestone" not in line]
    assert [event["seq"] for event in events] == list(range(TO_LONG_MODE + 1))
    assert (events[-1]["mode"], events[-1]["symbol"]) == ("long", "in_long_mode")
    shown = cli("trace", file, "--what", "state", "--tail", "3").ok().out
    assert "jmp 0x10:" in shown
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
        return [
            line
            for line in cli("trace", CRASHERS, "--append", "crash=hlt", *words).ok().out.splitlines()
            if line[:12].strip().isdigit()
        ]

    by_log, by_step = rows(), rows("--engine", "step")
    assert by_log == by_step
    assert len(by_log) > 1
    assert "(engine step)" in cli("trace", LONG_MODE, "--engine", "step", "--until", "5", "--what", "state").ok().out


def test_the_recorder_finds_what_the_log_finds(cli: Cli, vmlinux: Path) -> None:
    """Each milestone with the same number, place and detail, at a guest that halts and on the way of Debian's kernel to a goal."""

    def rows(*words: str | Path) -> list[str]:
        text = cli("trace", *words).ok().out
        assert f"(engine {'recorder' if '--engine' not in words else 'log'})" in text
        return [line for line in text.splitlines() if line[:12].strip().replace(",", "").isdigit()]

    asked: tuple[tuple[str | Path, ...], ...] = ((LONG_MODE, "--milestone", "print_fields"), (vmlinux, "--until", "start_kernel"))
    for words in asked:
        assert rows(*words) == rows(*words, "--engine", "log")


def test_without_a_recorder_the_log_is_read(cli: Cli) -> None:
    assert "(engine log)" in cli("trace", LONG_MODE, "--no-recorder").ok().out
    tools = cli.folder / "bin"
    tools.mkdir()
    for file in (Path("/usr/bin"), Path("/bin")):
        for one in file.iterdir():
            if not re.search(r"cc|clang|[cg]\+\+", one.name) and not (tools / one.name).is_symlink():
                (tools / one.name).symlink_to(one)
    none = cli("trace", LONG_MODE, env={"PATH": str(tools), "XDG_CACHE_HOME": str(cli.folder)}).ok().out
    assert "note: without the flight recorder: building the recorder needs a C compiler" in none
    assert "(engine log)" in none
    foreign = cli.folder / "theirs"
    foreign.mkdir(mode=0o777)
    foreign.chmod(0o777)
    (foreign / "pvhdbg" / "recorder").mkdir(parents=True)
    (foreign / "pvhdbg" / "recorder").chmod(0o777)
    text = cli("trace", LONG_MODE, env={"XDG_CACHE_HOME": str(foreign)}).ok().out
    assert "note: without the flight recorder: the recorder cannot be cached" in text


def test_where_qemus_log_cannot_be_had_another_engine_does_it_and_says_why(cli: Cli, machine: object) -> None:
    strange = cli.folder / "not\nto be quoted"  # QEMU cannot be told the path of a FIFO there
    strange.mkdir()
    theirs: Machine = machine(kernel=LONG_MODE)  # type: ignore[operator]
    text = cli("trace", theirs.socket, env={"TMPDIR": str(strange)}).ok().out
    assert "note: engine breakpoints, because QEMU's log is not available: the path" in text
    assert "the numbers count stops" in text
    assert "10 stops in" in text
    text = cli("trace", theirs.socket, "--here", "--what", "pc", "--until", "1", env={"TMPDIR": str(strange)}).ok().out
    assert "note: engine step, because QEMU's log is not available: the path" in text


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
        (["--from", "long"], "cannot be combined with"),
        (["--filter", "load_cr3"], "cannot be combined with"),
        (["--what", "pc", "--filter", "no_such_symbol"], "no symbol no_such_symbol"),
        (["--what", "pc", "--filter", "0x20-0x10"], "holds no address"),
        (["--vcpu", "-1"], "not a CPU's number"),
        (["--vcpu", "1", "--engine", "breakpoints"], "stops every CPU"),
        (["--vcpu", "1", "--what", "calls"], "does not report which CPU"),
        (["--milestone", "far_jump", "--what", "calls"], "cannot be combined with"),
        (["--for", "0"], "not a duration"),
        (["-o", "/nonexistent/x"], "cannot be written"),
        (["--", "-d", "int"], "-d and -D"),
        (["--engine", "magic"], "invalid choice"),
        (["--engine", "first"], "--what calls"),
        (["--what", "calls", "--until", "long"], "does not see modes"),
        (["--what", "calls", "--engine", "step"], "cannot be combined with"),
    ],
)
def test_bad_wishes_are_refused(cli: Cli, words: list[str], complaint: str) -> None:
    cli("trace", LONG_MODE, *words).complaint(2, complaint)


def test_a_full_disk_is_told(cli: Cli) -> None:
    cli("trace", LONG_MODE, "--what", "state", "-o", "/dev/full").complaint(2, "cannot be written")


def test_no_half_of_a_trace_is_left_where_there_is_no_room(cli: Cli) -> None:
    file = cli.folder / "t.jsonl"
    with cli.start("trace", CRASHERS, "--append", "crash=endless-loop", "--what", "state", "--for", "20", "-o", file) as process:
        eventually(lambda: reads_the_log(process), "the trace does not begin", 10)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1 << 15, 1 << 15))  # QEMU has its memory, which counts as a file
        ran = cli.ended(process)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.splitlines()[-2:][0] == "pvhdbg: the answer cannot be written: File too large"
    assert cli.files() == []


def test_ctrl_c_ends_it_with_what_there_is(cli: Cli) -> None:
    file = cli.folder / "t.jsonl"
    with cli.start("trace", CRASHERS, "--append", "crash=endless-loop", "--what", "pc", "--tail", "5", "-o", file) as process:
        eventually(lambda: reads_the_log(process), "the trace does not begin", 10)
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
    assert "jmp 0x10:" in text


def test_the_functions_of_a_boot_in_the_order_of_their_first_call(cli: Cli, vmlinux: Path) -> None:
    file = cli.folder / "calls.jsonl"
    cli("trace", vmlinux, "--what", "calls", "--until", "start_kernel", "-o", file).ok()
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        validator("trace").validate(row)
    names = [row["function"] for row in rows if "function" in row]
    places = {name: at for at, name in enumerate(names)}
    assert len(places) == len(names)
    assert names[:2] == ["pvh_start_xen", "xen_prepare_pvh"]
    in_order = ["startup_64", "__startup_64", "x86_64_start_kernel", "clear_bss", "x86_64_start_reservations"]
    assert [places[name] for name in in_order] == sorted(places[name] for name in in_order)
    assert "start_kernel" not in places  # it ends before that is run
    assert "xen_prepare_pvh" in cli("trace", file).ok().out
    assert [row["function"] for row in readers.table(_exported(file, "csv"))] == names
    assert sorted(name for name, _, _ in readers.chrome(_exported(file, "perfetto")).slices["functions"]) == sorted(names)
    cli("trace", "export", file, "--as", "drcov", "-o", cli.folder / "t").complaint(2, "functions only")
    assert f"the same {len(names)} functions" in cli("trace", "diff", file, file).ok().out
    cli("timeline", file).complaint(2, "functions", "modes")
    other = cli.folder / "without.jsonl"
    lines = file.read_text().splitlines(True)
    other.write_text("".join(lines[:6] + lines[7:]))
    parted = cli("trace", "diff", file, other).ok(1).out
    assert "they differ at function 5" in parted
    assert f"1 functions of {len(names)} only here: {names[5]}" in parted


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
    assert "Trace" not in before
    with theirs.debugger() as target:
        target.monitor("system_reset")
        eventually(lambda: theirs_log.read_text().count("CPU Reset") > before.count("CPU Reset"), "nothing more is logged")
    assert theirs_log.read_text().startswith(before)


def test_a_saved_trace_is_asked_and_compared(cli: Cli) -> None:
    one, other = cli.folder / "a.jsonl", cli.folder / "b.jsonl"
    for file, count in ((one, "10300"), (other, "10290")):
        cli("trace", LONG_MODE, "--what", "state", "--until", count, "-o", file).ok()
    asked = cli("trace", "query", one, "efer").ok().out.splitlines()
    assert [line.split()[:2] for line in asked] == [["10278", "0x0"], ["10281", "0x100"]]
    assert "wrmsr" in asked[0]
    assert "jmp 0x10:" in cli("trace", "query", one, str(TO_LONG_MODE - 1)).ok().out
    assert "the same" in cli("trace", "diff", one, one).ok().out
    assert "they differ at 10290: one trace ends here" in cli("trace", "diff", one, other).ok(1).out
    cli("trace", "query", one, "cr9").complaint(2, "no change of cr9")
    cli("trace", "query", one, "99999").complaint(2, "no instruction 99999")
    cli("trace", "query", LONG_MODE, "cr0").complaint(2, "not a saved trace")
    cli("trace", "export", one, "--as", "csv", "-o", one).complaint(2, "the trace itself")
    cli("trace", "export", one, "--as", "csv", "-o", "/dev/full").complaint(2, "cannot be written")


def _exported(file: Path, format: str) -> bytes:
    names: dict[int, str] = {}
    return b"".join(export(format, saved(str(file), names), names.get))


def _exports_tell_the_trace(file: Path, kernel: Path) -> None:
    """Every export against the lines of the trace, which JSON alone has read."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    events = [row for row in rows if "seq" in row and "milestone" not in row and "fault" not in row]
    functions = [re.sub(r"\+0x[0-9a-f]+$", "", row["symbol"]) for row in events]

    chrome = readers.chrome(_exported(file, "perfetto"))
    assert chrome.process == kernel.name
    drawn = Counter[str]()
    for name, _, length in chrome.slices["functions"]:
        drawn[name] += length
    assert drawn == Counter(functions)
    assert sum(length for _, _, length in chrome.slices["mode"]) == len(events)
    milestones = [(row["milestone"], row["seq"]) for row in rows if "milestone" in row]
    assert [instant[:2] for instant in chrome.instants if instant[0] in dict(milestones)] == milestones

    state: dict[str, int] = {}
    for event, line in zip(events, readers.tenet(_exported(file, "tenet")), strict=True):
        state |= {name: int(value, 16) for name, value in event.get("state", {}).items()} | {"rip": int(event["pc"], 16)}
        assert {name: value for name, value in line.items() if name in state} == {
            name: state[name] for name in line if name in state
        }
        state |= {name: int(value, 16) for name, value in event["changes"].items()}

    (base, blocks), *others = readers.drcov(_exported(file, "drcov")).values()
    with kernel.open("rb") as stream:
        loads = [one for one in ELFFile(stream).iter_segments("PT_LOAD") if one["p_flags"] & 1]
    linked = {int(row["pc"], 16): len(row["code"]) // 2 for row in events}
    for load in loads:
        moved = load["p_vaddr"] - load["p_paddr"]
        inside = range(load["p_paddr"], load["p_paddr"] + load["p_memsz"])
        linked = {pc + moved if pc in inside else pc: size for pc, size in linked.items()}
    assert base == min(load["p_vaddr"] for load in loads)
    assert {base + offset: size for offset, size in blocks.items()} == linked
    assert not others

    table = readers.table(_exported(file, "csv"))
    assert [(int(row["seq"]), row["pc"], row["mode"], row["symbol"], row["code"]) for row in table] == [
        (row["seq"], row["pc"], row["mode"], row["symbol"], row["code"]) for row in events
    ]
    alone = Counter[str]()
    for stack, count in readers.folded(_exported(file, "folded")).items():
        alone[stack[-1]] += count
    assert alone == Counter(functions)


@pytest.mark.parametrize(
    ("guest", "words"), [("long_mode", ("--from", "10000")), ("hello", ("--tail", "50")), ("long_mode", ("--filter", "print"))]
)
def test_what_is_exported_of_a_guest_is_what_happened(cli: Cli, guest: str, words: tuple[str, ...]) -> None:
    file, kernel = cli.folder / "boot.jsonl", guests.path(guest)
    cli("trace", kernel, "--what", "state", *words, "-o", file).ok()
    _exports_tell_the_trace(file, kernel)


def test_what_is_exported_of_a_distributions_kernel_is_what_happened(cli: Cli, vmlinux: Path) -> None:
    file = cli.folder / "boot.jsonl"
    cli("trace", vmlinux, "--what", "state", "--until", "3000", "-o", file).ok()
    _exports_tell_the_trace(file, vmlinux)


def test_an_export_is_written_and_a_call_is_under_its_caller_in_it(cli: Cli) -> None:
    file = cli.folder / "boot.jsonl"
    cli("trace", HELLO, "--what", "pc", "-o", file).ok()
    assert "the trace is cut" not in cli("trace", "export", file, "--as", "folded", "-o", cli.folder / "f").ok().out
    for output in ("-", "/dev/stdout"):  # for a pipe: nothing else is printed
        assert cli("trace", "export", file, "--as", "folded", "-o", output).ok().out == (cli.folder / "f").read_text()
    stacks = readers.folded((cli.folder / "f").read_bytes())
    assert {stack[:-1] for stack in stacks if stack[-1] == "print"} == {("pvh_start",)}
    assert sum(stacks.values()) == len([line for line in file.read_text().splitlines() if line.startswith('{"seq"')])
    cli("trace", "export", file, "--as", "tenet", "-o", cli.folder / "t").complaint(2, "registers", "--what state")


def test_an_export_ends_when_its_reader_leaves(cli: Cli) -> None:
    file = cli.folder / "boot.jsonl"
    cli("trace", LONG_MODE, "--what", "pc", "--until", "3", "-o", file).ok()
    head, first, *_ = file.read_text().splitlines(True)
    whole = [first.replace('"seq":0,', f'"seq":{seq},') for seq in range(20_000)]
    file.write_text("".join([head, *whole, "damage\n", *whole]))
    with cli.start("trace", "export", file, "--as", "csv", "-o", "-") as process:
        assert process.stdout is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""  # it did not come to the damage
        assert process.wait() == 0


def test_traces_that_are_cut_or_empty(cli: Cli) -> None:
    file = cli.folder / "boot.jsonl"
    cli("trace", HELLO, "--what", "state", "-o", file).ok()
    whole = file.read_bytes()
    file.write_bytes(whole[:-30])
    shown = cli("trace", file).ok().out
    assert "ended: unknown" in shown
    assert "the machine stopped" not in shown
    assert "the trace is cut" in cli("trace", "export", file, "--as", "tenet", "-o", cli.folder / "tenet").ok().out
    assert len(readers.tenet((cli.folder / "tenet").read_bytes())) == whole.count(b'"code"')
    file.write_bytes(whole.splitlines(True)[0])
    cli("trace", "export", file, "--as", "perfetto", "-o", cli.folder / "none").complaint(2, "perfetto", "trace with")
    assert not (cli.folder / "none").exists()
    cli("trace", "diff", file, file).complaint(2, "no instructions")
    cli("trace", "query", file, "0").complaint(2, "no instruction 0")
    file.write_bytes(whole[:100])
    cli("trace", "export", file, "--as", "csv", "-o", cli.folder / "none").complaint(2, "cut within its first line")


def test_what_a_strangers_trace_holds_does_not_steer_the_terminal(cli: Cli) -> None:
    nasty = "x\x1b[2J\n\r=1;\ud800\u202e"
    head = {"schema": "pvhdbg/trace/1", "engine": nasty, "what": "state", "entry": None, "vmm": nasty, "kernel": nasty}
    event = {"seq": 0, "pc": "0x1", "mode": "long", "symbol": nasty, "code": "90", "changes": {nasty: "0x1", "rax": "0x2"}}
    fault = {"fault": "exception", "seq": 1, "vector": None, "error": None, "pc": None, "cr2": None, "state": {}}
    rows = [
        head,
        event,
        {"milestone": nasty, "seq": 1, "pc": "0x1", "detail": nasty, "symbol": nasty},
        fault,
        {"end": nasty, "events": 1},
    ]
    calls = [head | {"what": "calls"}, {"function": nasty, "order": 0, "pc": "0x1", "block": 0}, rows[-1]]
    files = cli.folder / "a.jsonl", cli.folder / "b.jsonl", cli.folder / "c.jsonl", cli.folder / "d.jsonl"
    other = [head, event | {"pc": "0x2"}, rows[-1]]
    for file, lines in zip(files, (rows, other, calls, [calls[0], calls[-1]]), strict=True):
        file.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    asked = (
        ("trace", files[0]), ("trace", files[0], "--what", "state"), ("timeline", files[0]), ("trace", "query", files[0], "0"),
        ("trace", "query", files[0], "rax"), ("trace", "diff", *files[:2]), ("trace", files[2]), ("trace", "diff", *files[2:]),
    )  # fmt: skip
    for words in asked:
        printed = cli(*words).ok(1 if "diff" in words else 0).out
        assert all(letter == "\n" or letter.isprintable() for letter in printed), (words, printed)
        assert "x\\x1b[2J" in printed, words


def test_what_is_not_worth_counting_to_is_run_to(vmlinux: Path, cli: Cli) -> None:
    saved = cli.folder / "t.jsonl"
    cli("trace", vmlinux, "--until", "rest_init", "--milestone", "setup_arch", "--for", "30", "-o", saved).ok()
    steps = {one["milestone"]: one for one in map(json.loads, saved.read_text().splitlines()) if "milestone" in one}
    assert list(steps)[-3:] == ["start_kernel", "setup_arch", "rest_init"]
    assert "counted" not in steps["start_kernel"]
    assert steps["rest_init"]["counted"] is False
    assert steps["rest_init"]["seq"] > steps["start_kernel"]["seq"]
    assert re.search(r"^ +> [\d,]+  rest_init ", cli("trace", saved).ok().out, re.MULTILINE)
    counted = cli("trace", vmlinux, "--until", "start_kernel").ok().out
    assert re.search(rf"^ +{steps['start_kernel']['seq']:,}  start_kernel ", counted, re.MULTILINE)
    assert "not counted" not in counted
    gone = (
        cli("trace", vmlinux, "--until", "rest_init", "--for", "3", "--append", "panic=-1 mem=1M").ok(3).out
    )  # it panics, and waits
    assert "rest_init was not reached" in gone


def leave_on(machine: Machine) -> None:
    """QEMU's one-instruction mode, as a tracer leaves it that nothing could put back."""
    with machine.debugger() as target:
        old = target.monitor("info status")
        target.monitor("one-insn-per-tb on")  # since QEMU 8.1
        if target.monitor("info status") == old:
            target.monitor("singlestep on")


def test_what_a_killed_tracer_left_on_is_told_at_the_next_attach(cli: Cli, machine: object) -> None:
    theirs: Machine = machine("-append", "crash=endless-loop", kernel=CRASHERS)  # type: ignore[operator]
    cli("trace", theirs.socket, "--until", "1").ok()
    clean = cli("attach", theirs.socket, "--here", "--batch").out
    assert "one-instruction mode" not in clean
    leave_on(theirs)
    told = cli("attach", theirs.socket, "--here", "--batch").out
    assert f"which a killed tracer leaves on. Restore it with: pvhdbg release {theirs.socket}" in told
    cli("release", theirs.socket, "--leave", "stopped").ok()
    assert "one-instruction mode" not in cli("attach", theirs.socket, "--here", "--batch").out


def test_a_trace_puts_back_what_another_left_on(cli: Cli, machine: object) -> None:
    theirs: Machine = machine("-append", "crash=endless-loop", kernel=CRASHERS)  # type: ignore[operator]
    cli("trace", theirs.socket, "--until", "1").ok()
    leave_on(theirs)
    text = cli("trace", theirs.socket, "--here", "--what", "pc", "--until", "10").ok().out
    assert "note: QEMU was in its one-instruction mode already, as a killed tracer leaves it: it is switched off" in text
    with theirs.debugger() as target:
        assert "single step mode" not in target.monitor("info status")
        assert "one-insn-per-tb: on" not in target.monitor("info jit")


def rows_of(path: Path) -> list[dict[str, object]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        if "code" not in row or row["seq"] < 20:
            validator("trace").validate(row)
    return rows


def test_a_guest_that_resets_is_left_there_or_followed(cli: Cli) -> None:
    resets = cli.file("resets.elf", kernel_elf(TRIPLE_FAULT))
    file = cli.folder / "boot.jsonl"
    text = cli("trace", resets, "--what", "pc").ok().out
    assert (
        "the guest reset the machine: reset 1, after instruction 1 at 0x100007 in 32-bit protected mode: a triple fault, begun by #BP"
        in text
    )
    cli(
        "trace", resets, "--machine", "microvm", "--on-reset", "go", "--what", "pc", "--until", str(FAR), "-o", file, "--", *QBOOT
    ).ok()
    rows = rows_of(file)
    first, second, *_ = (row for row in rows if "reset" in row)
    assert (first["seq"], first["pc"], first["goes_on"]) == (2, "0x100007", True)
    again, *_ = (row for row in rows if row.get("milestone") == "entry" and row["seq"])
    assert (again["pc"], again["detail"], second["seq"]) == ("0x100000", "boot 2", int(str(again["seq"])) + 2)
    seqs = [row["seq"] for row in rows if "code" in row]
    assert seqs == list(range(FAR))
    shown = cli("trace", file).ok().out
    assert shown.index("reset 1") < shown.index("(boot 2)") < shown.index("reset 2")
    assert "*** reset 2, after instruction" in cli("trace", file, "--what", "pc", "--tail", str(FAR)).ok().out


def test_the_next_trace_of_a_machine_shows_code_too(cli: Cli, machine: object) -> None:
    """QEMU logs the code of a block when it is new, and keeps its blocks over an interrupt."""
    theirs: Machine = machine(kernel=cli.file("loops.elf", kernel_elf(b"\x42\x90\xeb\xfc")))  # type: ignore[operator]  # inc edx; nop; jmp .-2
    file = cli.folder / "t.jsonl"
    for words in ((), ("--here",), ("--here",)):
        cli("trace", theirs.socket, *words, "--what", "pc", "--for", "0.3", "-o", file).ok()
        rows = [row for row in rows_of(file) if "mode" in row and "milestone" not in row]
        assert len(rows) > 100
        assert {row.get("code") for row in rows} == {"42", "90", "ebfc"}


def test_a_machine_of_somebody_elses_is_followed_over_its_reset(cli: Cli, machine: object) -> None:
    theirs: Machine = machine("-M", "microvm", *QBOOT, kernel=cli.file("resets.elf", kernel_elf(TRIPLE_FAULT)))  # type: ignore[operator]
    text = cli("trace", theirs.socket, "--on-reset", "go", "--until", str(FAR)).ok().out
    assert "(boot 2)" in text
    text = cli("trace", theirs.socket, "--here", "--what", "calls", "--for", "5").ok().out
    assert "the guest reset the machine: reset 1, after block" in text
    with theirs.debugger() as target:
        assert target.read_registers()["rip"] == 0xFFF0
    text = cli("trace", theirs.socket, "--reset", "--what", "calls", "--until", "400", "--on-reset", "go").ok().out
    lines = [line for line in text.splitlines() if "reset 1" in line or "boot 2" in line or "reset 2" in line]
    assert [line.split()[0] for line in lines[:3]] == ["the", "boot", "the"]
    deaf: Machine = machine("-M", "microvm", *QBOOT, "-no-reboot", kernel=cli.file("resets.elf", kernel_elf(TRIPLE_FAULT)))  # type: ignore[operator]
    text = cli("trace", deaf.socket, "--on-reset", "go").ok().out
    assert "note: the VMM stops or ends when its guest resets (QEMU's -no-reboot)" in text
    assert "the guest reset the machine: reset 1" in text


# mov dword [0x8000], code; INIT to all others; a pause; SIPI with vector 8; inc edx; jmp .-1. The code for CPU 1: inc ax; nop; jmp .-2
TWO_CPUS = bytes.fromhex(
    "c70500800000 4090ebfc c7050003e0fe 00450c00 b900000200 e2fe c7050003e0fe 08460c00 b900000200 e2fe 42 ebfd"
)


@pytest.mark.parametrize("engine", ["log", "step"])
def test_the_second_cpu_is_followed_where_it_is(cli: Cli, machine: object, engine: str) -> None:
    theirs: Machine = machine("-smp", "2", kernel=cli.file("two.elf", kernel_elf(TWO_CPUS)))  # type: ignore[operator]
    if engine == "step":
        cli("trace", theirs.socket, "--engine", "step", "--vcpu", "1").complaint(3, "CPU 1 is halted")
    cli("trace", theirs.socket, "--here", "--engine", engine, "--vcpu", "2").complaint(2, "no such CPU")
    cli("wait", theirs.socket, "--here", "--until", hex(0x100000 + len(TWO_CPUS) - 3)).ok()
    file = cli.folder / "t.jsonl"
    cli("trace", theirs.socket, "--here", "--engine", engine, "--vcpu", "1", "--what", "state", "--until", "60", "-o", file).ok()
    rows = [row for row in rows_of(file) if "mode" in row and "milestone" not in row]
    assert {(row["cpu"], row["mode"]) for row in rows} == {(1, "real")}
    assert len(rows) == 60
    places = [0x8000, 0x8001, 0x8002]
    first = places.index(int(str(rows[0]["pc"]), 16))
    assert [int(str(row["pc"]), 16) for row in rows] == [places[(first + index) % 3] for index in range(60)]
    counted = [int(row["changes"]["rax"], 16) & 0xFFFF for row in rows if row["pc"] == "0x8000"]  # type: ignore[index]
    assert counted == [counted[0] + index & 0xFFFF for index in range(len(counted))]
    with theirs.debugger() as target:
        assert 0x100000 <= target.read_registers()["rip"] < 0x100100  # the stub speaks of the first again


def test_a_kernel_that_lies_elsewhere_is_told(cli: Cli, machine: object, paging_kernels: Callable[[int], str]) -> None:
    kernel = paging_kernels(4)
    data = bytearray(Path(kernel).read_bytes())
    header, count = int.from_bytes(data[32:40], "little"), int.from_bytes(data[56:58], "little")
    for at in range(header, header + 56 * count, 56):  # p_vaddr of each program header, 256 MiB further up
        data[at + 16 : at + 24] = (int.from_bytes(data[at + 16 : at + 24], "little") + (1 << 28)).to_bytes(8, "little")
    theirs: Machine = machine(kernel=kernel)  # type: ignore[operator]
    cli("wait", theirs.socket, "--kernel", kernel, "--until", "there").ok()
    words = ("--here", "--what", "pc", "--until", "2")
    assert "KASLR" not in cli("trace", theirs.socket, "--kernel", kernel, *words).ok().out
    text = cli("trace", theirs.socket, "--kernel", cli.file("moved.elf", bytes(data)), *words).ok().out
    assert "note: the kernel is not at the addresses of its file (KASLR)" in text
