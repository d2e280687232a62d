"""The tracer's commands inside a real GDB: what they see is what the command line sees, and GDB and the machine are left as they were."""

import json
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pvhdbg import guests
from tests.in_gdb.test_gdb import CLEAN, SCRIPT, Gdb
from tests.support.cli_runner import HELLO, TRIPLE_FAULT, Cli, Machine, Start, eventually, kernel_elf, reads_the_log
from tests.support.schemas import validator
from tests.support.small_kernels import assertive
from tests.support.terminal import Terminal

pytestmark = pytest.mark.boot

LONG_MODE, CRASHERS = str(guests.path("long_mode")), str(guests.path("crashers"))
TO_LONG_MODE = 10284  # see tests/tracing/test_log_engine.py
ROW = re.compile(r" +[\d,]+ ")


def begin(kernel: str, stub: Machine) -> tuple[str, ...]:
    return (f"set pvh kernel {kernel}", f"target remote {stub.socket}", "pvh run-to-entry")


def rows(text: str) -> list[str]:
    return [line for line in text.splitlines() if ROW.match(line)]


def events(file: Path) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, file.read_text().splitlines()) if "mode" in line and "milestone" not in line]


def test_the_same_trace_as_the_command_lines(machine: Start, cli: Cli) -> None:
    theirs, ours = cli.folder / "gdb.jsonl", cli.folder / "cli.jsonl"
    trace = f"pvh trace --what state --until long -o {theirs}"
    gdb = Gdb(*begin(LONG_MODE, machine(kernel=LONG_MODE)), trace)
    cli("trace", LONG_MODE, "--what", "state", "--until", "long", "-o", ours).ok()
    seen, expected = events(theirs), events(ours)
    assert len(seen) == TO_LONG_MODE + 1
    for one, other in zip(seen, expected, strict=True):
        # QEMU leaves different flags behind, by the machine that it was started as; nothing of the guest's differs.
        assert {**one, "set": {}} == {**other, "set": {}}
    assert gdb.complaints() == []
    for line in theirs.read_text().splitlines()[:20]:
        validator("trace").validate(json.loads(line))
    assert "(engine log); ended: everything requested was seen" in gdb[trace]
    assert "Program received signal" not in gdb.out


def test_milestones_are_those_of_the_command_line(machine: Start, cli: Cli) -> None:
    gdb = Gdb(*begin(LONG_MODE, machine(kernel=LONG_MODE)), "pvh milestones --milestone print_fields")
    assert rows(gdb["pvh milestones --milestone print_fields"]) == rows(
        cli("trace", LONG_MODE, "--milestone", "print_fields").ok().out
    )


def test_a_few_instructions_are_stepped_and_the_machine_stands_behind_the_last(machine: Start, cli: Cli) -> None:
    first, then = "pvh trace --what state --until 6", "pvh trace --until 3 --what pc"
    gdb = Gdb(
        "set pagination on",
        "set confirm on",
        *begin(LONG_MODE, machine(kernel=LONG_MODE)),
        "hbreak *0x10000b",
        "hbreak *0x100049",
        "disable 2",
        first,
        "pvh regs",
        "x/i $pc",
        then,
        "stepi",
        "p $pc",
        "info breakpoints",
        "maint info breakpoints",
        "pvh break far_jump",
        "continue",
        "monitor info status",
        "show pagination",
        "show confirm",
        "show suppress-cli-notifications",
    )
    whole = cli("trace", LONG_MODE, "--what", "state", "--until", "11", "--engine", "log").ok().out
    places = [line.split()[:3] for line in rows(whole)]
    assert [line.split()[:3] for line in rows(gdb[first])] == places[:6]
    assert "(engine step); ended: the requested number of instructions was reached" in gdb[first]
    assert f"=> {places[6][2]} " in gdb[first].splitlines()[-1]
    assert places[6][2] in gdb["x/i $pc"]
    assert "*eip" in gdb["pvh regs"]
    assert [line.split()[2] for line in rows(gdb[then])] == [row[2] for row in places[6:9]]
    assert f") {places[10][2]}\n" in gdb["p $pc"]
    assert re.findall(r"^(\d) .*(y|n) +0x0+(\w+)", gdb["info breakpoints"], re.MULTILINE) == [
        ("1", "y", "10000b"),
        ("2", "n", "100049"),
    ]
    assert "already hit" not in gdb["info breakpoints"]
    assert not re.search(r"^-\d", gdb["maint info breakpoints"], re.MULTILINE)
    assert "single step" not in gdb.err  # where GDB shows what a monitor says
    assert "is on." in gdb["show pagination"]
    assert "is on." in gdb["show confirm"]
    assert "is off." in gdb["show suppress-cli-notifications"]


@pytest.mark.parametrize("crash", ["wild-esp", "endless-loop", "hlt", "zeros"])
def test_why_names_the_death_that_the_command_line_names(machine: Start, cli: Cli, crash: str) -> None:
    stub = machine("-append", f"crash={crash}", "-no-shutdown", "-no-reboot", kernel=CRASHERS)
    gdb = Gdb(*begin(CRASHERS, stub), "pvh why --format json --for 20", "monitor info status", "pvh mode", "info breakpoints")
    seen = json.loads(gdb["pvh why --format json --for 20"])
    expected = cli("why", CRASHERS, "--append", f"crash={crash}", "--format", "json").ok().json()
    # Through zeros, or in a loop, it runs for as long as it is followed.
    exact = {"zeros": [], "endless-loop": ["pc"]}.get(crash, ["pc", "instructions"])
    names = ("kind", "cause", "mode", "symbol", "faults", "next", *exact)
    assert {name: seen[name] for name in names} == {name: expected[name] for name in names}
    assert [one["pc"] for one in seen["path"]] == [one["pc"] for one in expected["path"]]
    assert "single step" not in gdb.err  # where GDB shows what a monitor says
    assert "CPL" in gdb["pvh mode"]
    assert gdb["info breakpoints"].startswith("No breakpoints")
    assert [line for line in gdb.complaints() if not line.startswith("VM status: paused")] == []


def test_the_calls_are_gdbs_where_only_it_has_the_tables_for_them(machine: Start, cli: Cli) -> None:
    """The kernel that boots was stripped; GDB has the file with its DWARF tables."""
    whole = assertive(cli.folder, 64, "-g", "-mcmodel=kernel", "-fomit-frame-pointer", "-fno-asynchronous-unwind-tables")
    bare = str(cli.folder / "bare.elf")
    subprocess.run(["strip", "--strip-debug", "-o", bare, whole], check=True)
    shown, told = "pvh why", "pvh why --format json"
    known = Gdb(f"symbol-file {whole}", *begin(bare, machine(kernel=bare)), told, shown)
    calls = json.loads(known[told])["calls"]
    assert [one["symbol"].partition("+")[0] for one in calls[:4]] == ["panic", "find_devices", "start_drivers", "kernel_main"]
    assert [one["by"] for one in calls[:4]] == ["pc", *["debugger"] * 3]
    assert "as GDB unwinds the stack" in known[shown]
    own = json.loads(cli("why", bare, "--format", "json").ok().out)["calls"]
    assert {one["by"] for one in own[1:]} == {"stack"}


def test_no_descriptor_is_left_open(machine: Start) -> None:
    stub = machine("-append", "crash=wild-esp", "-no-shutdown", "-no-reboot", kernel=CRASHERS)
    count = "python import os; print(len(os.listdir('/proc/self/fd')))"
    gdb = Gdb(*begin(CRASHERS, stub), count, "pvh why", f"{count} ")
    assert "triple fault" in gdb["pvh why"]
    assert int(gdb[f"{count} "]) <= int(gdb[count]) + 1  # Python may keep one


def test_a_guest_that_shut_down_is_not_run_again(machine: Start) -> None:
    stub = machine("-append", "crash=wild-esp", "-no-shutdown", "-no-reboot", kernel=CRASHERS)
    gdb = Gdb(*begin(CRASHERS, stub), "pvh why", "pvh trace", "pvh why ", "pvh milestones", "pvh regs")
    assert "triple fault" in gdb["pvh why"]
    assert (
        gdb.complaints()
        == ["the machine cannot run on: the guest triple-faulted or shut down (next: boot it again to its entry)"] * 3
    )
    assert "000f4" in gdb["pvh regs"]


def test_a_cpu_that_has_halted_is_not_stepped(machine: Start) -> None:
    gdb = Gdb(
        *begin(LONG_MODE, machine(kernel=LONG_MODE)),
        "pvh trace --what pc --until 100000 --tail 1",
        "pvh trace --what pc --until 1 --engine step",
        "pvh trace --what pc --until 1",
        "pvh why",
    )
    for line in ("pvh trace --what pc --until 1 --engine step", "pvh trace --what pc --until 1"):
        assert "ended: the CPU halted with interrupts off" in gdb[line]
    assert "The CPU halted for good" in gdb["pvh why"]
    assert gdb.complaints() == []


def test_a_reboot_is_caught_and_the_next_boot_is_traced(machine: Start, cli: Cli) -> None:
    kernel = cli.file("k", kernel_elf(TRIPLE_FAULT))
    gdb = Gdb(
        *begin(kernel, machine(kernel=kernel)), "pvh why", "pvh mode", "pvh run-to-entry --reset", "pvh trace --what pc --until 1"
    )
    assert "triple fault" in gdb["pvh why"]
    assert "real mode" in gdb["pvh mode"]
    assert gdb["pvh run-to-entry --reset"].startswith("at the entry")
    assert len(rows(gdb["pvh trace --what pc --until 1"])) == 1


def test_a_machine_that_ends_in_the_middle(machine: Start) -> None:
    stub = machine("-device", "isa-debug-exit,iobase=0xf4,iosize=4", kernel=HELLO)
    gdb = Gdb(*begin(HELLO, stub), "hbreak *0x100000", "pvh trace", "pvh why", "info breakpoints", "pvh explain PVH-CR0-PE")
    assert "ended: the machine is gone: the guest ended it" in gdb["pvh trace"]
    enabling, said = gdb.complaints()
    assert enabling.endswith("GDB enables hardware breakpoints only with one: enable 1")
    assert "not connected" in said
    assert "cr0.PE is set" in gdb["pvh explain PVH-CR0-PE"]


def test_a_log_that_qemu_keeps_for_somebody_else_goes_on(machine: Start, cli: Cli) -> None:
    log = cli.folder / "their log"
    stub = machine("-d", "cpu_reset", "-D", str(log), kernel=LONG_MODE)
    gdb = Gdb(*begin(LONG_MODE, stub), "pvh trace --until far_jump", f"shell cp '{log}' '{log}.before'", "monitor system_reset")
    assert "note: QEMU runs with a log of its own (-d cpu_reset)" in gdb["pvh trace --until far_jump"]
    before = (cli.folder / "their log.before").read_text()
    assert "Trace" not in before
    assert log.read_text().startswith(before)
    eventually(lambda: log.read_text().count("CPU Reset") > before.count("CPU Reset"), "nothing more is logged")


def test_engines_need_no_disassembler(machine: Start) -> None:
    hidden = "python import sys, pvhdbg.disassembly as d; sys.modules['iced_x86'] = None; d.available = lambda: False"
    by_stops, by_step = "pvh milestones long --engine breakpoints", "pvh trace --what pc --until 3 --engine step"
    gdb = Gdb(*begin(LONG_MODE, machine(kernel=LONG_MODE)), hidden, by_step, by_stops, "maint info breakpoints")
    assert not gdb.complaints()
    assert len(rows(gdb[by_step])) == 3
    assert "64-bit" in gdb[by_stops]
    assert gdb["maint info breakpoints"].startswith("No breakpoints")


def test_gdbs_own_disassembler_shows_instructions_where_there_is_no_other(machine: Start) -> None:
    """In every mode, also those that the machine has left; GDB stays with its thread and the user's own disassembler."""
    theirs = "python from gdb.disassembler import *; register_disassembler(type('Theirs', (Disassembler,), {'__call__': print})('theirs'), 'i386')"
    stub = machine("-smp", "2", kernel=LONG_MODE)
    first, whole, died = "pvh trace --what state --until 2", "pvh trace --what state --until long --tail 3", "pvh why --for 20"
    gdb = Gdb(
        CLEAN, f"source {SCRIPT}", *begin(LONG_MODE, stub), theirs, "thread 2", first, "thread", "thread 1", whole, died, f"pvh elf {LONG_MODE}",
        "show architecture", "info inferiors", "maint info python-disassemblers", script=None,
    )  # fmt: skip
    assert ["CPU 1 is halted" in line for line in gdb.complaints()] == [True]  # where the firmware left it
    assert "Thread 1.2" in gdb["thread"]
    assert [re.sub(r"  +[a-z_0]+=.*", "", line.split(maxsplit=3)[3]) for line in rows(gdb[whole])] == [
        "lgdtl  0x1001c8", "ljmp   $0x10,$0x1000a9", "mov    $0x18,%eax",
    ]  # fmt: skip
    assert re.search(r"long +0x1000a6  hlt$", gdb[died], re.MULTILINE)
    assert "bc 10 90 10 00                 mov    $0x109010,%esp" in gdb[f"pvh elf {LONG_MODE}"]
    assert '"auto"' in gdb["show architecture"]
    assert len(gdb["info inferiors"].splitlines()) == 2
    assert re.search(r"^i386 +theirs", gdb["maint info python-disassemblers"], re.MULTILINE)


def test_what_is_told_is_told_of_the_cpu_of_gdbs_thread(machine: Start) -> None:
    """QEMU's monitor has a CPU of its own. A second CPU that was not started does not step, and its trace ends soon."""
    gdb = Gdb(
        *begin(LONG_MODE, machine("-smp", "2", kernel=LONG_MODE)), "pvh trace --until long --tail 1", "pvh mode", "thread 2", "pvh mode ",
        "pvh trace --what pc --until 2", "pvh trace --what pc --until 5000 --for 5", "thread", "monitor info cpus",
    )  # fmt: skip
    assert "64-bit" in gdb["pvh mode"]
    assert "64-bit" not in gdb["pvh mode "].splitlines()[0]
    assert "ended: the CPU halted with interrupts off" in gdb["pvh trace --what pc --until 5000 --for 5"]
    assert "this is CPU 1 alone" in gdb["pvh trace --what pc --until 5000 --for 5"]
    assert "this is CPU 0 alone" in gdb["pvh trace --until long --tail 1"]
    assert "Thread 1.2" in gdb["thread"]
    assert "* CPU #0" in gdb.err  # where GDB shows what a monitor says
    assert [line for line in gdb.complaints() if "CPU #" not in line] == [
        "CPU 1 is halted: a step would wait for what wakes it (next: trace with --engine log)"
    ]


def test_bad_wishes_are_one_line_each(machine: Start) -> None:
    wrong = {
        "pvh trace --until nowhere": "no symbol nowhere",
        "pvh trace --tail 0": "keeps nothing",
        "pvh trace --what calls --until long": "does not see modes",
        "pvh trace -o /nonexistent/x": "cannot be written",
        "pvh trace -o /dev/full --what pc": "cannot be written",
        "pvh trace vmlinux": "usage: pvh trace",
        "pvh trace --from 3": "usage: pvh trace",
        "pvh why --for 0": "is not a duration",
        "pvh milestones nowhere": "no symbol nowhere",
    }
    gdb = Gdb(
        *begin(LONG_MODE, machine(kernel=LONG_MODE)),
        *wrong,
        "monitor info status",
        "info breakpoints",
        "pvh trace --what pc --until 1",
    )
    complaints = [line for line in gdb.complaints() if not line.startswith("VM status")]
    assert len(complaints) == len(wrong), "\n".join(complaints)
    for (command, words), said in zip(wrong.items(), complaints, strict=True):
        assert words in said, command
    assert "single step" not in gdb.err  # where GDB shows what a monitor says
    assert gdb["info breakpoints"].startswith("No breakpoints")


def test_without_a_machine_and_on_a_core(cli: Cli) -> None:
    snapshot, core = str(cli.folder / "s.pvhsnap"), str(cli.folder / "core")
    cli("snapshot", "save", HELLO, "-o", snapshot).ok()
    cli("snapshot", "export", snapshot, "-o", core).ok()
    gdb = Gdb("pvh trace", "pvh why", f"core-file {core}", "pvh milestones")
    assert [line for line in gdb.complaints() if "not connected to a gdbstub" in line] == gdb.complaints()
    assert len(gdb.complaints()) == 3


@pytest.mark.parametrize("command", ["trace --engine log", "why --for 60"])
@pytest.mark.gdb
def test_ctrl_c_ends_it_with_what_there_is(machine: Start, command: str, cli: Cli) -> None:
    idle, prompt = cli.file("idle", kernel_elf(b"\x42\xeb\xfd")), "(gdb) "  # it comes back to the same state after 2^32 rounds only
    stub, tmp_path = machine(kernel=idle), cli.tmp
    lines = (f"source {SCRIPT}", *begin(idle, stub))
    with Terminal("gdb", "-nx", "-q", *(word for line in lines for word in ("-ex", line)), env={"TMPDIR": str(tmp_path)}) as gdb:
        gdb.until("at the entry")
        gdb.until(prompt)
        gdb.press(f"pvh {command}\n")
        gdb.until(f"pvh {command}")
        eventually(lambda: reads_the_log(gdb.process), "it does not begin", 10)
        said = gdb.enter("\x03", prompt)
        assert "ended: interrupted" in said if command.startswith("trace") else "It did not die" in said
        assert "Program received" not in said
        assert "CPL 0" in gdb.enter("pvh mode\n", prompt)
        assert "single step" not in gdb.enter("monitor info status\n", prompt)
        assert "No breakpoints" in gdb.enter("maint info breakpoints\n", prompt)
        gdb.enter("stepi\n", prompt)
        assert not list(tmp_path.glob("pvhdbg-*"))


@pytest.mark.gdb
def test_ctrl_c_ends_a_watch_with_the_flight_recorder(cli: Cli) -> None:
    idle, prompt = cli.file("idle", kernel_elf(b"\x42\xeb\xfd")), "(gdb) "
    lines = (f"source {SCRIPT}", f"set pvh kernel {idle}", "pvh start")
    with Terminal("gdb", "-nx", "-q", *(word for line in lines for word in ("-ex", line)), env={"TMPDIR": str(cli.tmp)}) as gdb:
        gdb.until("before instruction 0")
        gdb.until(prompt)
        gdb.press("pvh why --for 60\n")
        gdb.until("watching the guest for its death")  # the recorder has stopped it once, which is not taken for Ctrl-C
        said = gdb.enter("\x03", prompt)
        assert "It did not die" in said
        assert "Program received" not in said
        assert "CPL 0" in gdb.enter("pvh mode\n", prompt)
        gdb.enter("stepi\n", prompt)


@pytest.mark.gdb
def test_ctrl_c_in_a_batch_leaves_gdb_nothing_to_come_to(machine: Start, cli: Cli) -> None:
    """GDB 13 crashes at its end over an event that was posted to it and that it did not come to."""
    idle = cli.file("idle", kernel_elf(b"\x42\xeb\xfd"))
    lines = (f"source {SCRIPT}", *begin(idle, machine(kernel=idle)), "pvh trace --engine log --for 30")
    words = ["gdb", "-nx", "-q", "-batch", *(word for line in lines for word in ("-ex", line))]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as gdb:
        eventually(lambda: reads_the_log(gdb), "it does not begin", 15)
        gdb.send_signal(signal.SIGINT)
        said, _ = gdb.communicate(timeout=20)
    assert "ended: interrupted" in said
    assert gdb.returncode == 0, said


PRESSED_AS_THE_WORK_STOPS_THE_GUEST = """
import os, signal, sys, threading
from pvhdbg.in_gdb.session import STATE
from pvhdbg.errors import TargetTimeout
from pvhdbg.targets.from_thread import FromThread
machine = STATE.session().target
lent, heard = FromThread(machine), threading.Event()
class Engine:
    stop = staticmethod(heard.set)
def work():
    stop_soon = machine.stop_soon
    def pressed_first(number):
        machine.stop_soon = stop_soon
        os.kill(os.getpid(), signal.SIGINT)
        stop_soon(number)
    with lent.interruptible(Engine):
        lent.resume()
        try:
            lent.wait(0.3)
        except TargetTimeout:
            machine.stop_soon = pressed_first
        lent.interrupt()
        return heard.wait(10)
print("Ctrl-C was heard:", lent.serve(work))
"""


@pytest.mark.gdb
def test_ctrl_c_is_heard_also_where_the_work_stops_the_guest_itself(machine: Start, cli: Cli) -> None:
    """GDB reports one stop then, which the work had asked for."""
    idle, script = cli.file("idle", kernel_elf(b"\x42\xeb\xfd")), cli.folder / "pressed.py"
    script.write_text(PRESSED_AS_THE_WORK_STOPS_THE_GUEST)
    gdb = Gdb(*begin(idle, machine(kernel=idle)), f"source {script}", "pvh mode")
    assert "Ctrl-C was heard: True" in gdb.out, gdb.err
    assert "CPL 0" in gdb["pvh mode"]


def test_a_real_kernel_to_start_kernel(vmlinux: Path, machine: Start, cli: Cli) -> None:
    stub = machine("-m", "512M", kernel=str(vmlinux))
    calls = cli.folder / "calls.jsonl"
    gdb = Gdb(
        *begin(str(vmlinux), stub),
        "pvh milestones start_kernel",
        f"pvh trace --what calls --until rest_init -o {calls}",
        "pvh mode",
        "monitor info status",
    )
    by_cli = cli("trace", vmlinux, "--until", "start_kernel").ok().out
    assert rows(gdb["pvh milestones start_kernel"]) == rows(by_cli)
    assert "<start_kernel>:" in gdb["pvh milestones start_kernel"]
    assert any("setup_arch" in line for line in calls.read_text().splitlines())
    assert "64-bit long mode" in gdb["pvh mode"]
