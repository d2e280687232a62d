"""The prompt's logic, line by line, on real machines: running, breakpoints, what went wrong, and what an empty line does."""

import json
import os
import re
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from pvhdbg.commands import live
from pvhdbg.guests import path as guest
from pvhdbg.repl import lines, own_commands
from pvhdbg.repl.serial import Follower
from pvhdbg.repl.terminal import _Words
from tests.support.cli_runner import HELLO, HELLO_ENTRY, LOOP, Cli, Start, eventually, kernel_elf
from tests.support.prompt import LONG_MODE, Talk, talking
from tests.support.sorting import examples

_WORDS = st.sampled_from(
    [
        *(command.name for command in own_commands.ALL),
        "/4x",
        "/i",
        "/",
        "$pc",
        "$",
        "pvh_start",
        "pvh_start+1",
        "0x100000",
        "-1",
        "0",
        "'",
        "--here",
    ]
)


@pytest.fixture(scope="module")
def shared() -> Iterator[Talk]:
    """`long_mode` at its entry; tests only look."""
    with talking(LONG_MODE) as one:
        yield one


@pytest.fixture(scope="module")
def without_gdb() -> Iterator[Talk]:
    """The same, where GDB is not to be used."""
    with talking(LONG_MODE, via="remote") as one:
        yield one


@pytest.fixture
def paged(paging_kernels: Callable[[int], str]) -> Iterator[Talk]:
    """A kernel that turns on 4-level paging and then lives high up, at its entry."""
    with talking(paging_kernels(4)) as one:
        yield one


# --- running ------------------------------------------------------------------------------------------------------


@pytest.mark.boot
def test_a_breakpoint_is_one_at_both_aliases(paged: Talk) -> None:
    made = re.fullmatch(r"breakpoint 1: there at (0x10\w+) and (0xffffffff801\w+)\n", paged("b there"))
    assert made
    assert paged("info breakpoints") == f"1   hardware  there                    at {made[1]}, {made[2]}\n"
    assert paged("c").startswith(f"breakpoint 1, {made[2]} <there>, 64-bit long mode\n=> {made[2]}:")
    assert paged("").startswith("breakpoint 1, ")  # round its loop, by an empty line
    assert "hit 2 times" in paged("info b")
    assert paged("d 1") == ""
    assert paged("info breakpoints") == "no breakpoints\n"
    assert "breakpoint 1 does not exist" in paged.wrong("delete 1")
    assert paged.interrupted("c").startswith("interrupted: ")


@pytest.mark.boot
def test_stepping(paged: Talk) -> None:
    first = paged("si")
    assert re.match(r"=> 0x10000a <entry\+0xa>: ", first)
    assert "<entry+0x14>" in paged("")
    assert "*eip" in paged("regs")
    assert paged("") == ""  # regs is not repeated
    paged("b there")
    assert paged("stepi 100000").startswith("breakpoint 1, ")  # stops a long walk


@pytest.mark.boot
def test_the_context_of_a_stop(cli: Cli) -> None:
    lines = ("until map_4g", "set context on", "stepi", "set context off", "stepi")
    ran = cli("repl", LONG_MODE, "--batch", *(word for line in lines for word in ("-ex", line))).ok()
    assert ran.out.count("── ") == 1
    view = ran.out.partition("── ")[2]
    for part in ("changed\n", "code\n", "stack\n", "<map_4g", "=> 0x"):
        assert part in view


@pytest.mark.boot
def test_until_a_mode(paged: Talk) -> None:
    assert re.match(r"paging after \d\.\d s\n=> 0x10\w+ <paging_on\+0x3>: ", paged("until paging"))
    assert "in that mode already" in paged.wrong("until paging")
    assert "in that mode already" in paged.wrong("until protected-mode")
    text = paged("until long-mode")
    assert re.search(r"=> 0x10\w+ <in_long_mode>: ", text)
    assert paged("mode").startswith("64-bit long mode")
    assert paged("u there").startswith("stopped: 0xffffffff801")
    assert "is at there already" in paged.wrong("until there")


@pytest.mark.boot
def test_until_a_mode_takes_no_longer_than_a_trace(vmlinux32: Path) -> None:
    """Linux for 32-bit PCs turns paging on after 65 000 instructions, most of them in loops."""
    with talking(str(vmlinux32)) as one:
        one("b mk_early_pgtbl_32")
        assert one("until paging").startswith("breakpoint 1, ")
        one("delete")
        one("restart")
        began = time.monotonic()
        assert one("until paging").startswith("paging after")
        took = time.monotonic() - began
        place = one("info registers rip")
        one("restart")
        began = time.monotonic()
        traced = one("trace --what pc --until paging --tail 1")
        assert took < time.monotonic() - began
        assert f"{int(place.split()[1], 16):#x}" in traced


@pytest.mark.boot
def test_a_mode_behind_more_branches_than_there_are_breakpoints(cli: Cli) -> None:
    """Branches that are not taken, each to code of its own, and behind them the one way to real mode."""
    leave = b"\x0f\x20\xc0\x24\xfe\x0f\x22\xc0" + LOOP  # clear cr0.PE
    other = b"\x0f\x22\xc0" + LOOP
    count = 40
    branches = b"".join(
        b"\x0f\x85" + struct.pack("<i", 6 * (count - 1 - number) + len(leave) + number * len(other)) for number in range(count)
    )
    code = b"\x31\xc0" + branches + leave + other * count  # xor eax, eax; jne …
    with talking(cli.file("branches", kernel_elf(code)), timeout=5.0) as one:
        assert one("until real").startswith("real after ")
        assert f" {HELLO_ENTRY + 2 + 6 * count + len(leave) - len(LOOP):#x}" in one("info registers rip")


@pytest.mark.boot
def test_the_first_64_bit_instruction_by_name_and_by_mode() -> None:
    with talking(LONG_MODE) as one:
        assert one("until in_long_mode").startswith("stopped: 0x1000")
        by_name = one("info registers rip")
        one("restart")
        assert "<in_long_mode>: " in one("until long-mode")
        assert one("info registers rip") == by_name


@pytest.mark.boot
def test_x_goes_on_where_it_ended(paged: Talk) -> None:
    first = paged("x/2i entry").splitlines()
    second = paged("").splitlines()
    assert first[0] == "<entry>:"
    assert first[1].startswith("=> 0x100000: ")
    assert second[0] == "<entry+0x14>:"
    assert second[1].startswith("   0x100014: ")
    assert len([line for line in second if not line.startswith("<")]) == 2
    words = paged("x/2w entry").strip().split("  ")
    assert words[0] == "0x100000:"
    assert paged("").startswith("0x100008:  ")
    raw = paged("xp/8b 0x100000").split(": ")[1].split()[:4]
    assert words[1] == "0x" + "".join(reversed(raw))
    assert paged("x/4xb entry") == "0x100000:  " + "  ".join(f"0x{byte}" for byte in raw) + "\n"
    assert paged("x/1dw entry") == f"0x100000:  {int.from_bytes(bytes.fromhex(''.join(raw)), 'little', signed=True)}\n"


def test_an_attached_machine(machine: Start) -> None:
    stub = machine()
    with talking(stub.socket, "attach", kernel=HELLO) as one:
        one("b halt")
        assert one("c").startswith("breakpoint 1, ")
        assert one("restart").startswith("booted again: at the entry 0x100000 <pvh_start>\n")
        assert "at the entry" not in one("reset")
        assert one("info registers rip").startswith("rip      0xfff0")
        assert one("c").startswith("breakpoint 1, ")  # over the reboot that SeaBIOS makes for itself
        assert "hit 2 times" in one("info b")
        assert one("monitor system_reset") == ""
        assert one("quit") == ""
        assert one.it.leaving
    assert stub.running()
    with stub.debugger() as target:
        assert target.monitor("info status").startswith("VM status: paused")


def test_a_reboot_is_told(machine: Start, cli: Cli) -> None:
    from tests.support.cli_runner import TRIPLE_FAULT, kernel_elf

    kernel = cli.file("crash.elf", kernel_elf(TRIPLE_FAULT))
    with talking(machine(kernel=kernel).socket, "attach", kernel=kernel) as one:
        assert one("c") == "the guest rebooted: it is at its reset vector\n"
        assert one("mode").startswith("real mode")
        assert one("restart").startswith("booted again")
    with talking(kernel) as one:  # here it is kept as it died
        assert one("c").startswith("the guest shut down or triple-faulted (boot it again: restart)\n")
        assert "eip 001000" in one("regs")
        assert "cannot run on" in one.wrong("c")
        assert "cannot run on" in one.wrong("si")
        assert one("restart").startswith("booted again")


@pytest.mark.boot
def test_qemu_killed_from_outside() -> None:
    with talking(LONG_MODE) as one:
        one("b in_long_mode")
        qemu = one.it.machine.qemu
        assert qemu is not None
        assert one.it.news() is None
        os.kill(qemu.pid, signal.SIGKILL)
        eventually(lambda: qemu.poll() is not None, "it lives")
        assert one.it.news() == "the machine is gone: QEMU was killed by SIGKILL (boot it again: restart)"
        assert one.it.news() is None  # told once
        assert "no machine" in one.it.toolbar()
        assert "the machine is gone" in one.wrong("regs")
        assert "cr0" in one("explain PVH-CR0-PE")
        assert one("restart").startswith("booted again: at the entry")
        assert one("c").startswith("breakpoint 1, ")  # it was kept
        assert one.it.machine.qemu is not qemu
        one("monitor quit")
        assert one.it.machine.gone is not None or one.it.news() is not None


def test_a_machine_that_dies_while_it_runs(machine: Start) -> None:
    stub = machine()
    with talking(stub.socket, "attach", kernel=HELLO) as one:

        def kill() -> None:
            eventually(lambda: one.it.machine.running, "it does not run")
            stub.process.kill()

        thread = threading.Thread(target=kill)
        thread.start()
        error = one.wrong("c")
        thread.join()
        stub.process.wait()
        assert error.startswith("the machine is gone: ")
        assert "nothing answers" in one.wrong("restart")
        assert "the machine is gone" in one.wrong("c")


@pytest.mark.boot
def test_an_interrupt_in_the_middle_of_a_reply() -> None:
    """Ctrl-C pressed twice cuts off whatever is being done; the connection is then a fresh one."""
    with talking(LONG_MODE) as one:
        one("b print_fields")

        def interrupt() -> None:
            eventually(lambda: one.it.machine.running, "it does not step")
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        assert one.wrong("si 1000000") == "interrupted"
        thread.join()
        assert re.match(r"rip +0x1000\w\w", one("info registers rip"))
        assert one("c").startswith("breakpoint 1, ")


@pytest.mark.boot
def test_kill_asks_and_restart_helps() -> None:
    with talking(HELLO) as one:
        asked: list[str] = []

        def no(question: str) -> bool:
            asked.append(question)
            return False

        one.it.confirm = no
        assert one("kill") == "not killed\n"
        assert len(asked) == 1
        one.it.confirm = lambda _: True
        assert one("kill").startswith("killed")
        assert "the machine is gone" in one.wrong("kill")
        assert one("restart").startswith("booted again")


def test_detach_leaves_a_machine_that_runs(machine: Start) -> None:
    stub = machine()
    with talking(stub.socket, "attach", kernel=HELLO) as one:
        result = one.run("detach")
        assert result.leaves
    eventually(lambda: "hello from PVH" in stub.serial(), "it does not run")


@pytest.mark.boot
def test_serial_output_comes_while_the_guest_runs() -> None:
    with talking(HELLO) as one:
        one("b halt")
        one("c")
        assert "| hello from PVH\n" in one.written


# --- what an address is, before paging and after -------------------------------------------------------------------


@pytest.mark.boot
def test_a_real_linux(vmlinux: Path) -> None:
    """From the entry through the first 64-bit instruction to start_kernel, of a kernel without .symtab."""
    with talking(str(vmlinux)) as one:
        assert one("b start_kernel").count("0x") == 2
        text = one("until long-mode")
        assert "<pvh_start_xen+" in text
        assert re.match(r"breakpoint 1, 0xffffffff8\w+ <start_kernel>, 64-bit long mode\n", one("c"))
        assert "4-level paging" in one("pagewalk $rip")
        assert '"Linux version ' in one("x/s linux_banner")
        assert "did you mean start_kernel" in one.wrong("b strt_kernel")
        symbols = one.it.session.symbols
        assert symbols is not None
        assert len(symbols) > 50_000
        for start in ("b start_k", "b a", "until x", "x/4x kva"):
            since = time.thread_time()  # other tests run beside this one
            found = one.it.complete(start)
            took = time.thread_time() - since
            assert found
            assert took < 0.05, f"{start}: {took * 1000:.0f} ms for {len(symbols)} symbols"


# --- words --------------------------------------------------------------------------------------------------------


@pytest.mark.boot
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("bogus", "'bogus' is not a command"),
        ("rst", "is not a command"),
        ("re", "ambiguous: regs, reset, restart"),
        ("b pvh_strt", "did you mean pvh_start?"),
        ("until", "usage: until"),
        ("until nowhere", "no symbol nowhere"),
        ("x 0xfff000000000", "no RAM or ROM"),
        ("x/4q 0", "is not a format"),
        ("x/99999b 0", "cannot be shown at once"),
        ("x $nothing", "no register $nothing"),
        ("si 0", "cannot be stepped"),
        ("si x", "usage: stepi"),
        ("delete 77", "breakpoint 77 does not exist"),
        ("delete x", "usage: delete"),
        ("info registers nothing", "no register $nothing"),
        ("monitor", "usage: monitor"),
        ("source /nonexistent", "cannot be read"),
        ("mode > /nonexistent/x", "cannot be written"),
        ("mode |", "another after it"),
        ("gdb p 1", "GDB is disabled here"),
        ("continue 3", "usage: continue"),
        ("help nonsense", "is not a command"),
        ("check --select NOPE", "no rule"),
        ("b 'unclosed", "No closing quotation"),
    ],
)
def test_bad_input_is_one_line(without_gdb: Talk, line: str, words: str) -> None:
    assert words in without_gdb.wrong(line)
    assert without_gdb("entry").startswith("entry 0x100000")
    assert without_gdb("info breakpoints") == "no breakpoints\n"


@pytest.mark.boot
def test_a_snapshot_is_only_looked_at(cli: Cli) -> None:
    cli("snapshot", "save", HELLO, "-o", "hello.pvhsnap").ok()
    with talking(str(cli.folder / "hello.pvhsnap")) as one:
        assert one("mode").startswith("32-bit protected mode")
        for line in ("c", "si", "until paging", "until pvh_start", "b 0x100000", "reset", "restart", "monitor info status", "kill"):
            assert re.search("snapshot|recording|no kernel file", one.wrong(line)), line
        assert one("regs")
        assert one.it.news() is None
        one("quit")


def test_each_command_can_be_helped_and_its_example_typed() -> None:
    names = [name for command in own_commands.ALL for name in (command.name, *command.aliases)]
    assert len(names) == len(set(names))
    for command in own_commands.OWN:
        found, rest = live.find(command.live_example, own_commands.ALL)
        assert found is command
        if command.name not in own_commands.RAW:
            live.values(found, rest)
        assert command.live_example in live.help_text(command)
    # What asks a question, or hands the terminal to another program, has no line of progress over it.
    assert [
        command.name for command in own_commands.ALL if command.name in ("kill", "shell", "source", "gdb") and command.working
    ] == []
    assert {one for one in own_commands.NO_MACHINE if " " not in one} <= set(names)


@pytest.mark.boot
def test_a_step_of_a_cpu_that_has_halted_comes_back() -> None:
    with talking(str(guest("crashers")), append="crash=hlt") as one:
        one("until hlt")
        one("stepi")
        assert "the CPU waits for an interrupt" in one.wrong("stepi")
        assert "32-bit protected mode" in one("mode")


@pytest.mark.boot
def test_help_apropos_and_completion(shared: Talk) -> None:
    assert "Usage: until " in shared("help until")
    assert "stepi" in shared("help")
    assert "continue" in shared("apropos guest")
    complete = shared.it.complete
    assert complete("unt") == ["until"]
    assert complete("until long") == ["long-mode"]
    assert complete("until pa")[:2] == ["paging", "paged"]
    assert complete("b in_l") == ["in_long_mode"]
    assert complete("info ") == ["breakpoints", "registers"]
    assert "$rip" in complete("x/2i $r")
    assert complete("explain PVH-CR0-P") == ["PVH-CR0-PE", "PVH-CR0-PG"]
    assert complete("nonsense x") == []


@pytest.mark.boot
def test_pipes_and_files(shared: Talk, cli: Cli) -> None:
    assert shared("regs | grep -c cr0") == "1\n"
    assert shared("mode|head -n1").startswith("32-bit protected mode")
    path = cli.folder / "out"
    assert shared(f"mode > {path}") == ""
    assert path.read_text() == shared("mode")
    assert shared(f"mode >> '{path}'") == ""
    assert path.read_text() == 2 * shared("mode")
    assert shared(f"!echo hello > {path}") == ""
    assert path.read_text() == "hello\n"
    assert lines.parse('apropos "a > b"') == lines.PromptLine('apropos "a > b"')


@pytest.mark.boot
def test_scripts(without_gdb: Talk, cli: Cli) -> None:
    script = cli.file("script", "# a remark\n\nmode\nnonsense at all\nmode\n")
    without_gdb.written.clear()
    error = without_gdb.wrong(f"source {script}")
    assert error.startswith(f"{script}:4: ")
    assert "".join(without_gdb.written).count("CPL 0") == 1
    endless = cli.folder / "endless"
    endless.write_text(f"source {endless}\n")
    assert "without end" in without_gdb.wrong(f"source {endless}")


@pytest.mark.boot
def test_show_gdb_tells_what_would_be_typed() -> None:
    with talking(HELLO, show_gdb=True) as one:
        text = one("c") if one("b halt") else ""
        assert "(gdb) hbreak *0x100058\n" in text
        assert "(gdb) continue\n" in text
        assert "(gdb) monitor info mtree -f\n" in one("check --here")


@pytest.mark.boot
def test_whatever_is_typed_is_answered(without_gdb: Talk) -> None:
    """No line of any kind ends the conversation, or raises; what may start a shell or write a file is left out."""

    @settings(max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.one_of(st.text(max_size=40), st.builds(" ".join, st.lists(_WORDS, max_size=5))))
    def typed(line: str) -> None:
        assume(not re.search(r"[!|>]|sh|sou|mon|^\s*(c|k|q|de|sn|r|u|s|exit)", line))
        result = without_gdb.run(line)
        assert "internal error" not in result.error
        assert "\n" not in result.error
        assert not result.leaves
        assert result.error.isprintable()

    typed()
    without_gdb("delete")
    assert without_gdb("entry").startswith("entry 0x100000")


# --- the serial port ----------------------------------------------------------------------------------------------


def test_serial_lines_are_safe_and_bounded(tmp_path: Path) -> None:
    log = tmp_path / "serial"
    log.write_bytes(b"one\r\n\x1b[2Jtwo\nhal")
    follower = Follower(log, rate=10)
    assert follower.lines() == ["one", "\\x1b[2Jtwo"]
    with open(log, "ab") as file:
        file.write(b"f\n" + b"flood\n" * 1000)
    found = follower.lines()
    assert found[0] == "half"
    assert re.match(r"… \d+ more lines", found[-1])
    assert len(found) < 20
    log.unlink()
    assert follower.lines(whole=True) == []


# --- the command line ---------------------------------------------------------------------------------------------


@pytest.mark.boot
def test_commands_from_the_command_line(cli: Cli) -> None:
    script = cli.file("script", "mode\n")
    ran = cli("repl", HELLO, "-ex", "b halt", "-x", script, "-ex", "nonsense", "-ex", "c", "--via", "remote").ok(2)
    assert re.match(
        r"0x100000 <pvh_start>, 32-bit protected mode\n(?:QEMU 7\.2.*\n)?breakpoint 1: halt .*\n32-bit protected mode, (?:.*\n)+\| hello from PVH\nbreakpoint 1, ",
        ran.out,
    )
    assert ran.err == "pvhdbg: 'nonsense' is not a command (did you mean notes?)\n"
    reported = cli("run", HELLO, "--strict", "-ex", "cmdline").ok(1)
    assert reported.out == cli("run", HELLO, "--strict").ok(1).out + "\n"
    apart = cli("run", HELLO, "--format", "json", "--output", "report.json", "-ex", "mode").ok()
    assert apart.out.startswith("32-bit protected mode")
    assert json.loads((cli.folder / "report.json").read_text())["schema"] == "pvhdbg/report/1"


@pytest.mark.boot
@pytest.mark.parametrize("via", ["remote", "gdb"])
def test_milestones_from_where_the_machine_stands(via: str) -> None:
    with talking(LONG_MODE, via=via) as talk:
        talk("b exit")
        talk("b load_cr3")
        assert "load_cr3" in talk("c")
        shown = talk("milestones print_fields")  # a place: behind a mode it may run on to its end
        rows = [line.split()[1] for line in shown.splitlines() if re.match(r" +[\d,]+  ", line)]
        assert [row for row in rows if row != "efer.lma"] == ["cr3", "efer.lme", "cr0.pg", "lgdt", "far", "64-bit", "segments"]
        assert "64-bit long mode" in talk("mode")
        assert "exit" in talk("c")  # the breakpoints that were there are there again
        assert "no milestone was reached" in talk("milestones")  # to the guest's end
        assert "halted" in talk.wrong("c")
        talk("restart")
        assert "no symbol nowhere" in talk.wrong("milestones nowhere")
        assert "protected mode" in talk("mode")


@pytest.mark.boot
def test_milestones_of_a_real_linux_lead_to_start_kernel(vmlinux: Path) -> None:
    with talking(str(vmlinux)) as talk:
        shown = talk("milestones start_kernel")
        assert "x86_64_start_kernel" in shown
        assert re.search(r"=> 0x\w+ <start_kernel>", shown)


# --- the kernel file ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["attach", "repl"])
def test_the_kernel_that_qemus_monitor_names_serves_everywhere(machine: Start, command: str) -> None:
    stub = machine(kernel=LONG_MODE)
    with talking(stub.socket, command) as one:
        assert one("break in_long_mode").startswith("breakpoint 1: in_long_mode at 0x1000")
        assert re.match(r"pvh_start  now 0x10\w+, ", one("symbols pvh_start"))
        assert "PHYS32_ENTRY" in one("notes")
        assert one("kernel") == f"{LONG_MODE} (found: QEMU's monitor names it, and memory holds it)\n"
        assert "<in_long_mode>" in one("c")
        one("restart")
        assert "in_long_mode" in one("info breakpoints")
        assert one("symbols in_long_mode").startswith("in_long_mode  now")


def test_another_kernel_is_named_at_the_prompt(machine: Start, cli: Cli) -> None:
    copy = cli.file("copy", Path(LONG_MODE).read_bytes())
    stub = machine(kernel=copy)
    Path(copy).unlink()  # what the monitor names is not there any more
    with talking(stub.socket, via="remote") as one:
        assert "(name the kernel: kernel ELF)" in one.wrong("break in_long_mode")
        assert "(name the kernel: kernel ELF)" in one.wrong("elf")
        assert one(f"kernel {LONG_MODE}") == f"{LONG_MODE} (named)\n"
        assert one("break in_long_mode").startswith("breakpoint 1: ")
        assert "there is no file" in one.wrong("kernel /nonexistent")
        assert one("kernel") == f"{LONG_MODE} (named)\n"
        one("restart")
        assert one("symbols in_long_mode").startswith("in_long_mode  now")
        assert one(f"kernel {HELLO}").splitlines()[0] == f"{HELLO} (named)"


@pytest.mark.boot
def test_elf_and_diff_at_the_prompt(cli: Cli) -> None:
    cli("snapshot", "save", HELLO, "--append", "other", "-o", "other.pvhsnap").ok()
    other = f"{cli.folder}/other.pvhsnap"
    with talking(LONG_MODE) as one:
        assert one("elf") == cli("elf", LONG_MODE).ok().out
        assert one(f"elf {HELLO} --as qemu") == cli("elf", HELLO, "--as", "qemu").ok().out
        assert one("elf --symbol in_long_mode").startswith("in_long_mode  virtual 0x1000")
        one(f"snapshot save {cli.folder}/here.pvhsnap")
        assert one(f"diff {cli.folder}/here.pvhsnap").endswith("the same where it matters (exit 0)\n")
        seen = one.run(f"diff {other}")
        assert seen.exit_code == 1
        assert "“other”" in seen.text
        assert one(f"diff {other} {other}").endswith("the same where it matters (exit 0)\n")
        assert "usage: diff" in one.wrong("diff")


# --- every run has an end -----------------------------------------------------------------------------------------


@pytest.mark.boot
def test_a_run_without_a_terminal_is_bounded_by_the_timeout(cli: Cli) -> None:
    """crash=hlt halts with interrupts off: nothing would ever stop it."""
    halts = (str(guest("crashers")), "--append", "crash=hlt", "--batch", "--timeout", "2")
    until = cli("repl", *halts, "-ex", "until 0x100", "-ex", "mode").ok(3)
    assert "0x100 was not reached within 2 s (--timeout): interrupted: 0x1" in until.out
    assert "32-bit protected mode, by cr0" in until.out or "\n32-bit protected mode" in until.out
    assert "pvhdbg: until 0x100\n" in until.err
    on = cli("repl", *halts, "-ex", "c").ok(3)
    assert "it ran for 2 s (--timeout) without a stop: " in on.out
    loops = (str(guest("crashers")), "--append", "crash=endless-loop", "--batch", "--timeout", "2")
    walk = cli("repl", *loops, "-ex", "until long-mode").ok(3)
    assert re.search(r"not in long-mode yet after 2\.\d s \(--timeout gives it more\)", walk.out)
    assert "pvhdbg: until long-mode\n" in walk.err
    assert max(until.seconds, on.seconds, walk.seconds) < 12


# --- small helps --------------------------------------------------------------------------------------------------


def mapped(text: str) -> list[tuple[int, int, bool, bool]]:
    """What `pagewalk --all` says: beginning, end, user, writable; neighbours that differ in execution alone are one."""
    found: list[tuple[int, int, bool, bool]] = []
    for start, end, write, user in re.findall(r"^  0x(\w+) - 0x(\w+) .* r([w-])[x-]  (user|supervisor only), ", text, re.MULTILINE):
        one = int(start, 16), int(end, 16), user == "user", write == "w"
        if found and found[-1][1] == one[0] and found[-1][2:] == one[2:]:
            found[-1] = (found[-1][0], *one[1:])
        else:
            found.append(one)
    return found


def by_qemu(text: str) -> list[tuple[int, int, bool, bool]]:
    """The same by the monitor's `info mem`."""
    rows = re.findall(r"^(\w+)-(\w+) \w+ ([u-])r([w-])", text, re.MULTILINE)
    return [(int(start, 16), int(end, 16), user == "u", write == "w") for start, end, user, write in rows]


@pytest.mark.boot
@pytest.mark.parametrize("levels", [2, 3, 4, 5])
def test_the_whole_address_space(paging_kernels: Callable[[int], str], levels: int) -> None:
    """QEMU's own list is the oracle."""
    with talking(paging_kernels(levels), cpu="max") as one:
        assert one("pagewalk --all") == "paging is off: linear addresses are physical ones\n"
        one("until there")
        found = mapped(one("pagewalk --all"))
        assert found
        if levels < 5:  # QEMU 7.2 looks at every entry of five levels, present or not, for minutes
            assert found == by_qemu(one("monitor info mem"))
        for start, end, _, write in found:
            for address in (start, end - 1):
                assert f"supervisor only, {'writable' if write else 'read-only'}" in one(f"pagewalk {address:#x}")
        assert "--all" in one.wrong("pagewalk")
        assert "--all" in one.wrong("pagewalk $rip --all")


@pytest.mark.boot
def test_a_linuxs_address_space_and_calls(vmlinux: Path) -> None:
    with talking(str(vmlinux)) as one:
        one("until start_kernel")
        assert mapped(one("pagewalk --all")) == by_qemu(one("monitor info mem"))
        assert re.search(r"call[lq]? +0xffffffff\w+ <__fentry__>\n", one("disas /4"))


@pytest.mark.boot
def test_registers_by_name(without_gdb: Talk) -> None:
    every = without_gdb("info registers rip cr0")
    assert without_gdb("regs rip cr0") == every
    assert without_gdb("regs $cr0") == every.splitlines(keepends=True)[1]
    assert "no register nothing" in without_gdb.wrong("regs nothing").replace("$", "")


@pytest.mark.boot
def test_a_blank_behind_the_only_candidate(without_gdb: Talk) -> None:
    words = [one.text for one in _Words(without_gdb.it).get_completions(Document("segm"), CompleteEvent())]
    assert words == ["segments "]
    several = [one.text for one in _Words(without_gdb.it).get_completions(Document("s"), CompleteEvent())]
    assert "segments" in several
