"""pvhdbg inside a real GDB, on real machines: every subcommand against the command line's answer for the same stop."""

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pvhdbg.commands.table import LIVE
from tests.support.cli_runner import HELLO, ROOT, TRIPLE_FAULT, Cli, Machine, Start, eventually, kernel_elf, pvh_note
from tests.support.programs import need
from tests.support.real_kernel import noted_entry
from tests.support.terminal import Terminal

SCRIPT = ROOT / "gdb" / "pvhdbg-gdb.py"
MARK = "@@@ "
# What each subcommand is given where it needs something.
ARGUMENTS = {
    "pagewalk": "$rip",
    "xp": "/8w 0x100000",
    "disas": "/4",
    "symbols": "pvh_start",
    "explain": "PVH-TR-LIMIT",
}
TRAVEL = {"goto", "back", "reverse-continue", "last-write", "back-to-call"}
NOT_COMPARED = {
    "snapshot save",
    "help",
    "apropos",
    "trace",
    "why",
    "milestones",
    "diff",
    "elf",
    "dmesg",
    *TRAVEL,
}  # they have tests of their own
READING = [command.name for command in LIVE if command.name not in NOT_COMPARED]

CLEAN = "python import sys; sys.path[:] = [p for p in sys.path if 'site-packages' not in p and 'dist-packages' not in p]"


class Gdb:
    """A GDB that is run to its end."""

    def __init__(self, *commands: str, script: Path | None = SCRIPT, cwd: Path | None = None) -> None:
        words = ["gdb", "-nx", "-q", "-batch", "-ex", "set pagination off"]
        for command in ([f"source {script}"] if script else []) + list(commands):
            words += ["-ex", f"echo \\n{MARK}{command}\\n".replace('"', '\\"'), "-ex", command]
        env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        self.ran = subprocess.run(
            words, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL, cwd=cwd, env=env
        )
        self.code = self.ran.returncode
        self.out = self.ran.stdout
        self.err = self.ran.stderr
        assert "Traceback" not in self.out + self.err, self.err

    def __getitem__(self, command: str) -> str:
        """What one command printed."""
        _, found, rest = self.out.partition(f"\n{MARK}{command}\n")
        assert found, f"{command} was not run:\n{self.out}\n{self.err}"
        return rest.split(f"\n{MARK}")[0].removesuffix("[Inferior 1 (process 1) detached]\n")  # at GDB's end

    def complaints(self) -> list[str]:
        """The lines on stderr, without GDB's own on connecting."""
        return [line for line in self.err.splitlines() if line and "No executable" not in line and "determining exec" not in line]


def line_of(command: str) -> str:
    return f"pvh {command} {ARGUMENTS.get(command, '')}".rstrip()


@pytest.fixture(scope="module")
def stopped() -> Iterator[Machine]:
    """A machine that every GDB of these tests finds, and leaves, where it stands."""
    one = Machine("-append", "one two=3")
    yield one
    one.close()


@pytest.fixture(scope="module")
def at_entry(stopped: Machine) -> Gdb:
    """Every reading subcommand, at the entry of `hello`; the machine stays there."""
    return Gdb(
        f"set pvh kernel {HELLO}",
        f"target remote {stopped.socket}",
        "pvh run-to-entry",
        *(line_of(command) for command in READING),
        "disconnect",
    )


def command_line(cli: Cli, command: str, machine: Machine, *more: str) -> str:
    """The same command by the command line, at the same stop."""
    words = command.split()
    if command in ("explain", "rules"):
        return cli(*words, *ARGUMENTS.get(command, "").split()).ok().out
    return cli(*words, machine.socket, *ARGUMENTS.get(command, "").split(), *more).ok().out


# --- the same answers ---------------------------------------------------------------------------------------------


@pytest.mark.boot
@pytest.mark.parametrize("command", READING)
def test_the_command_lines_answer_at_the_entry(at_entry: Gdb, stopped: Machine, cli: Cli, command: str) -> None:
    by_cli = command_line(cli, command, stopped, *([] if command in ("explain", "rules") else ["--kernel", HELLO]))
    # QEMU's SETUP_DATA item of a PVH kernel points into a stack frame that is gone (x86_load_linux, hw/i386/x86.c).
    assert re.sub("SETUP_DATA .*", "", at_entry[line_of(command)]) == re.sub("SETUP_DATA .*", "", by_cli)


@pytest.mark.boot
def test_the_run_to_the_entry(at_entry: Gdb) -> None:
    assert at_entry["pvh run-to-entry"] == "at the entry 0x100000 <pvh_start>, found by ELF note\n"
    assert at_entry.complaints() == []


def test_the_command_lines_answer_in_long_mode(paging_kernels: Callable[[int], str], machine: Start, cli: Cli) -> None:
    kernel = paging_kernels(4)
    stub = machine(kernel=kernel)
    commands = ("regs", "segments", "gdt", "idt", "tss", "mode", "notes", "pagewalk", "xp", "disas", "symbols", "entry")
    lines = {
        command: f"pvh {command} {words}".rstrip()
        for command in commands
        for words in [{**ARGUMENTS, "symbols": "there"}.get(command, "")]
    }
    lines |= {"check": "pvh check --here", "info": "pvh info --here"}
    gdb = Gdb(
        f"set pvh kernel {kernel}",
        f"symbol-file {kernel}",
        f"target remote {stub.socket}",
        "hbreak there",
        "continue",
        "x/i $pc",
        *lines.values(),
        "p $lookup",
        "disconnect",
    )
    assert "there" in gdb["x/i $pc"]
    for command, line in lines.items():
        words = line.split()[1:]
        ran = cli(command, stub.socket, *(word for word in words[1:] if word != "--here"), "--kernel", kernel, "--here")
        if command == "entry":  # the command line's own stop is the entry that it knows of
            assert gdb[line].splitlines()[0] == "entry 0x100000 <entry>, found by ELF note"
        else:
            assert gdb[line] == ran.out, command
    assert "64-bit long mode" in gdb["pvh mode"]
    assert re.search(r"PML4 +\[511\]", gdb["pvh pagewalk $rip"])


def test_a_real_kernel(vmlinux: Path, machine: Start, cli: Cli) -> None:
    stub = machine("-append", "console=ttyS0 quiet", "-m", "512M", kernel=str(vmlinux))
    commands = ("check", "info", "regs", "cmdline")
    gdb = Gdb(
        f"target remote {stub.socket}",
        f"set pvh kernel {vmlinux}",
        "pvh run-to-entry",
        *(f"pvh {command}" for command in commands),
        "p/x $pvh_entry()",
        "disconnect",
    )
    for command in commands:
        assert gdb[f"pvh {command}"] == cli(command, stub.socket, "--kernel", str(vmlinux)).ok().out
    assert gdb["p/x $pvh_entry()"] == f"$1 = {noted_entry(vmlinux):#x}\n"


def test_from_the_entry_to_start_kernel(vmlinux: Path, machine: Start) -> None:
    """On a kernel without a symbol table, by what its kallsyms name."""
    stub = machine("-append", "quiet", "-m", "256M", kernel=str(vmlinux))
    lines = (f"target remote {stub.socket}", f"set pvh kernel {vmlinux}", "pvh run-to-entry", "pvh break start_kernel", "continue")
    gdb = Gdb(*lines, "pvh disas/1", "pvh mode", "pvh pagewalk $rip", "pvh idt", "pvh check")
    assert gdb["pvh run-to-entry"] == f"at the entry {noted_entry(vmlinux):#x} <pvh_start_xen>, found by ELF note\n"
    assert re.match(r"64-bit long mode\n<start_kernel>:\n=> 0xffffffff8\w+:", gdb["pvh disas/1"])
    assert re.search(r"physical 0x3\w+, in a page of 2 MiB; supervisor only, writable, executable\n$", gdb["pvh pagewalk $rip"])
    handlers = re.findall(r"^ +(0|14) #(?:DE|PF) +0010:(ffffffff8\w+) .*interrupt gate 64 <early_idt_handler_array(?:\+0x(\w+))?>",
                          gdb["pvh idt"], re.MULTILINE)  # fmt: skip
    (_, first, none), (_, fifteenth, offset) = handlers
    assert none in ("", "0")
    assert int(offset, 16) == int(fifteenth, 16) - int(first, 16)
    assert int(offset, 16) in (14 * 9, 14 * 13)  # EARLY_IDT_HANDLER_SIZE in arch/x86/include/asm/segment.h, with ENDBR since 5.18
    assert "shown as it was at the entry" in gdb["pvh check"]
    assert gdb.complaints() == []


# --- what GDB has in addition --------------------------------------------------------------------------------------


def test_functions_and_conditions(machine: Start) -> None:
    stub = machine()
    gdb = Gdb(
        f"target remote {stub.socket}",
        "p/x $pvh_entry()",
        "pvh break",
        "continue",
        "p/x $pvh_start_info() == $ebx",
        "p $pvh_ok()",
        'p $pvh_verdict("PVH-CR0-PE")',
        'p $pvh_verdict("pvh-tr-limit")',
        "set pvh strict on",
        "p $pvh_ok()  ",
        "hbreak *0x100005 if $pvh_ok() == 1",
        'hbreak *0x10000b if $_streq($pvh_verdict("PVH-CR0-PE"), "pass")',
        "continue ",
        "p $pc",
    )
    assert gdb["p/x $pvh_entry()"] == "$1 = 0x100000\n"
    assert gdb["pvh break"] == "Hardware assisted breakpoint 1 at 0x100000\n"
    assert gdb["p/x $pvh_start_info() == $ebx"] == "$2 = 0x1\n"
    assert gdb["p $pvh_ok()"] == "$3 = 1\n"
    assert gdb['p $pvh_verdict("PVH-CR0-PE")'] == '$4 = "pass"\n'
    assert gdb['p $pvh_verdict("pvh-tr-limit")'] == '$5 = "known"\n'
    assert gdb["p $pvh_ok()  "] == "$6 = 0\n"
    # Strict, the first condition does not hold; the verdict of the second is that of the entry.
    assert "0x10000b" in gdb["p $pc"]
    assert gdb.complaints() == []


def test_a_rule_that_failed_in_a_condition(machine: Start) -> None:
    """GDB's == does not compare strings ("Too many array elements"), so a condition needs a number."""
    stub = machine()
    gdb = Gdb(
        f"target remote {stub.socket}",
        "pvh break",
        "continue",
        "set $eflags = 0x202",
        'p $pvh_failed("PVH-EFL-IF")',
        'p $pvh_failed("PVH-CR0-PE")',
        'hbreak *0x100005 if $pvh_failed("PVH-CR0-PE")',
        'hbreak *0x10000b if $pvh_failed("PVH-EFL-IF")',
        "continue ",
        "p $pc",
        'p $pvh_failed("no such rule")',
    )
    assert gdb['p $pvh_failed("PVH-EFL-IF")'] == "$1 = 1\n"
    assert gdb['p $pvh_failed("PVH-CR0-PE")'] == "$2 = 0\n"
    assert "0x10000b" in gdb["p $pc"]
    (said,) = gdb.complaints()
    assert "no such rule" in said


@pytest.mark.boot
def test_traced_commands_do_not_break_the_monitors_answers(at_entry: Gdb, stopped: Machine) -> None:
    traced = Gdb(
        f"set pvh kernel {HELLO}",
        f"target remote {stopped.socket}",
        "set trace-commands on",
        "pvh run-to-entry --reset",
        *(line_of(command) for command in READING),
        "show trace-commands",
        "set trace-commands off",
        "disconnect",
    )
    assert traced["pvh run-to-entry --reset"].splitlines()[1:-1] == at_entry["pvh run-to-entry"].splitlines()
    for command in map(line_of, READING):
        lines = traced[command].splitlines(keepends=True)[1:-1]  # between GDB's traces of this command and of the next
        # What SETUP_DATA points to changes, see above.
        assert re.sub("SETUP_DATA .*", "", "".join(lines)) == re.sub("SETUP_DATA .*", "", at_entry[command])
    assert "is on." in traced["show trace-commands"]


@pytest.mark.gdb
def test_printers(cli: Cli) -> None:
    """By a program of gcc's own layout, with numbers that its own source gives."""
    need("gcc")
    source = cli.file("sample.c", SAMPLE)
    program = str(cli.folder / "sample")
    subprocess.run(["gcc", "-g", "-o", program, source], check=True)
    gdb = Gdb(f"file {program}", "p good", "p bad.magic", "p bad", "p module", "p range", "p ranges")
    assert gdb["p good"] == (
        "$1 = {magic = 0x336ec578 (good), version = 1, flags = 0x0, nr_modules = 2, modlist_paddr = 0x1000, cmdline_paddr = 0x2000, "
        "rsdp_paddr = 0xf59d0, memmap_paddr = 0x3000, memmap_entries = 7, reserved = 0x0}\n"
    )
    assert gdb["p bad.magic"] == "$2 = 7\n"
    assert "magic = 0x7 (WRONG: not 0x336ec578)" in gdb["p bad"]
    assert gdb["p module"] == "$4 = {paddr = 0x100000, size = 0x1000 (4 KiB), cmdline_paddr = 0x0, reserved = 0x0}\n"
    assert gdb["p range"] == "$5 = {addr = 0x100000, size = 0x200000 (2 MiB), type = 1 (RAM), reserved = 0x0}\n"
    assert gdb["p ranges"].count("no known type") == 2
    assert gdb.complaints() == []


SAMPLE = """
#include <stdint.h>
struct hvm_start_info {
    uint32_t magic, version, flags, nr_modules;
    uint64_t modlist_paddr, cmdline_paddr, rsdp_paddr, memmap_paddr;
    uint32_t memmap_entries, reserved;
};
struct hvm_modlist_entry { uint64_t paddr, size, cmdline_paddr, reserved; };
struct hvm_memmap_table_entry { uint64_t addr, size; uint32_t type, reserved; };
struct hvm_start_info good = { 0x336ec578, 1, 0, 2, 0x1000, 0x2000, 0xf59d0, 0x3000, 7 }, bad = { 7 };
struct hvm_modlist_entry module = { 0x100000, 0x1000 };
struct hvm_memmap_table_entry range = { 0x100000, 0x200000, 1 }, ranges[] = { { 0, 1, 77 }, { 1, 1, 78 } };
int main(void) { return 0; }
"""


def test_a_breakpoint_at_both_aliases_without_symbols_in_gdb(machine: Start, paging_kernels: Callable[[int], str]) -> None:
    kernel = paging_kernels(4)
    stub = machine(kernel=kernel)
    lines = (
        f"target remote {stub.socket}",
        f"set pvh kernel {kernel}",
        "pvh run-to-entry",
        "pvh break there",
        "continue",
        "pvh symbols $pc",
    )
    gdb = Gdb(*lines, "pvh break no_such", "info breakpoints")
    assert re.fullmatch(
        r"Hardware assisted breakpoint 1 at (0x10\w+)\nHardware assisted breakpoint 2 at 0xffffffff80\w+\n", gdb["pvh break there"]
    )
    assert re.match(r"0xffffffff80\w+ is there\n", gdb["pvh symbols $pc"])
    assert gdb["info breakpoints"].count("hw breakpoint") == 2
    (said,) = gdb.complaints()
    assert "no symbol no_such" in said


def test_settings_and_overview(machine: Start) -> None:
    stub = machine()
    gdb = Gdb(
        "info pvh",
        "show pvh spec",
        "set pvh spec v0",
        "set pvh strict on",
        "show pvh",
        f"set pvh kernel {HELLO}",
        f"target remote {stub.socket}",
        "info pvh ",
        "pvh run-to-entry",
        "pvh check",
        "pvh check --spec v1",
    )
    assert "machine GDB is not connected to a gdbstub" in gdb["info pvh"]
    assert gdb["show pvh spec"] == "The revision to judge by is v1.\n"
    assert "by is v0" in gdb["show pvh"]
    assert "Strict judging is on" in gdb["show pvh"]
    assert "judging by v0, strict" in gdb["info pvh "]
    assert "entry   0x100000, found by ELF note" in gdb["info pvh "]
    assert "version 0" in gdb["pvh check"]
    assert "(exit 1)" in gdb["pvh check"]
    assert "version 1" in gdb["pvh check --spec v1"].partition("Checks by")[2]
    assert gdb.complaints() == []


def test_from_stop_to_stop(machine: Start) -> None:
    stub = machine()
    gdb = Gdb(
        f"set pvh kernel {HELLO}",
        f"target remote {stub.socket}",
        "pvh run-to-entry",
        "pvh regs",
        "stepi",
        "pvh regs ",
        "pvh check",
        "stepi 2",
        "set $rbx = 7",
        "pvh regs  ",
        "pvh run-to-entry --reset",
        "pvh regs   ",
        "info breakpoints",
    )
    assert "*" not in gdb["pvh regs"]
    assert re.search(r"\*eip 00100005", gdb["pvh regs "])
    assert "shown as it was at the entry" in gdb["pvh check"]
    assert re.search(r"ebx 00000007", gdb["pvh regs  "])
    assert gdb["pvh run-to-entry --reset"].endswith("at the entry 0x100000 <pvh_start>, found by ELF note\n")
    assert gdb["pvh regs   "] == gdb["pvh regs"]
    assert gdb["info breakpoints"].startswith("No breakpoints")


def test_a_snapshot_saved_in_gdb(machine: Start, cli: Cli) -> None:
    stub = machine()
    path = cli.folder / "saved.pvhsnap"
    check = "pvh check --select PVH,SI"  # a snapshot holds no kernel file to judge
    gdb = Gdb(f"set pvh kernel {HELLO}", f"target remote {stub.socket}", "pvh run-to-entry", f"pvh snapshot save {path}", check)
    assert gdb[f"pvh snapshot save {path}"].startswith(f"{path}: ")
    assert cli("check", path, "--select", "PVH,SI").ok().out == gdb[check]


@pytest.mark.gdb
def test_help_and_completion() -> None:
    gdb = Gdb(
        "help pvh",
        *(f"help pvh {command.name}" for command in LIVE),
        "help set pvh",
        "help info pvh",
        "pvh help pagewalk",
        "apropos hidden segment",
        "complete pvh ch",
        "complete pvh check --sel",
        "complete pvh explain PVH-CR0-P",
        "complete pvh check --spec ",
        "complete pvh pagewalk $ri",
        "complete set pvh spec v",
        f"set pvh kernel {HELLO}",
        "complete pvh symbols pvh_",
    )
    for command in LIVE:
        assert re.search(rf"^pvh {command.name.split()[0]} -- ", gdb["help pvh"], re.MULTILINE)
        assert f"Usage: pvh {command.name}" in gdb[f"help pvh {command.name}"]
    assert "Usage: pagewalk" in gdb["pvh help pagewalk"]
    assert "pvh segments" in gdb["apropos hidden segment"]
    assert gdb["complete pvh ch"] == "pvh check\n"
    assert gdb["complete pvh check --sel"] == "pvh check --select\n"
    assert gdb["complete pvh explain PVH-CR0-P"] == "pvh explain PVH-CR0-PE\npvh explain PVH-CR0-PG\n"
    assert re.findall(r"^pvh check --spec (\S+)$", gdb["complete pvh check --spec "], re.MULTILINE) == ["draft-a", "v0", "v1"]
    assert gdb["complete pvh pagewalk $ri"] == "pvh pagewalk $rip\n"
    assert gdb["complete set pvh spec v"] == "set pvh spec v0\nset pvh spec v1\n"
    assert gdb["complete pvh symbols pvh_"] == "pvh symbols pvh_start\n"
    assert gdb.complaints() == []


@pytest.mark.gdb
def test_no_command_of_gdbs_is_shadowed() -> None:
    listing = "python import gdb; print(gdb.execute('help all', to_string=True))"
    before = set(re.findall(r"^([a-z][\w -]*?)(?:, [\w, -]+)? -- ", Gdb(listing, script=None)[listing], re.MULTILINE))
    after = set(re.findall(r"^([a-z][\w -]*?)(?:, [\w, -]+)? -- ", Gdb(listing)[listing], re.MULTILINE))
    assert before
    assert before <= after
    assert [
        name for name in after - before if not name.startswith(("pvh", "info pvh", "set pvh", "show pvh", "function pvh"))
    ] == []
    # An abbreviation that GDB's users type means what it did.
    assert "Undefined" not in "".join(Gdb("help p", "help i r", "help set p p").complaints())


# --- bad input ----------------------------------------------------------------------------------------------------

WRONG = {
    "pvh": "which subcommand?",
    "pvh nonsense": "is not a command",
    "pvh chekc": "did you mean check?",
    "pvh s": 'Ambiguous pvh command "s": segments, snapshot, start, symbols.',
    "pvh snapshot": "is not a command",
    "pvh pagewalk": "pagewalk takes an address",
    "pvh pagewalk pvh_strt": "did you mean pvh_start",
    "pvh pagewalk 1 +": "syntax error in expression",
    "pvh pagewalk nonsense(": "No symbol",
    "pvh xp 0xfffffffff000": "no RAM or ROM",
    "pvh xp/4z 0": "is not a format",
    "pvh disas /999999": "cannot be shown at once",
    "pvh check --select NOPE": "no rule",
    "pvh check --nonsense": "usage: pvh check",
    "pvh explain 'x": "No closing quotation",
    "pvh explain \x1b[31mX": r"\x1b[31mX",
    "pvh run-to-entry --timeout 0": "is not a duration",
    "pvh snapshot save /nonexistent/x": "cannot be written",
    "set pvh spec v9": "Undefined item",
    "p $pvh_verdict(1)": "",
    'p $pvh_verdict("NOPE")': "no rule",
    "p $pvh_verdict()": "",
}


def test_bad_input_is_one_line_each(machine: Start) -> None:
    stub = machine()
    commands = [word for wrong in WRONG for word in (wrong, "pvh mode")]
    gdb = Gdb(f"set pvh kernel {HELLO}", f"target remote {stub.socket}", *commands)
    assert gdb.out.count("real mode, paging off, 16-bit code") == len(WRONG)
    complaints = gdb.complaints()
    assert len(complaints) == len(WRONG), complaints
    for (command, words), said in zip(WRONG.items(), complaints, strict=True):
        assert words in said, command
    assert "\x1b" not in gdb.err


@pytest.mark.gdb
def test_without_a_machine() -> None:
    lines = [f"pvh {command}" for command in ("check", "regs", "entry", "break", "run-to-entry")]
    gdb = Gdb(*lines, "p $pvh_ok()", "pvh explain PVH-CR0-PE", "pvh check --exit")
    assert gdb.complaints() == ["GDB is not connected to a gdbstub (next: target remote :1234)"] * (len(lines) + 2)
    assert "cr0.PE is set" in gdb["pvh explain PVH-CR0-PE"]
    assert gdb.code == 3


def test_a_machine_that_goes_away(machine: Start) -> None:
    stub = machine()
    gdb = Gdb(
        f"target remote {stub.socket}",
        "pvh mode",
        f"shell kill -9 {stub.process.pid}",
        f"shell while kill -0 {stub.process.pid} 2>/dev/null && ! grep -q 'State:.Z' /proc/{stub.process.pid}/status; do :; done",
        "pvh check",
        "pvh check ",
        "pvh explain PVH-CR0-PE",
    )
    first, second = gdb.complaints()
    assert "gone" in first
    assert "not connected" in second
    assert "cr0.PE is set" in gdb["pvh explain PVH-CR0-PE"]


def test_an_entry_that_is_not_reached(machine: Start, cli: Cli) -> None:
    stub = machine(kernel=cli.file("dies.elf", kernel_elf(TRIPLE_FAULT)))
    gdb = Gdb(
        f"set pvh kernel {HELLO}",
        f"target remote {stub.socket}",
        "pvh run-to-entry",
        "stepi 2",
        "pvh run-to-entry --timeout 5",
        "pvh mode",
        "info breakpoints",
    )
    (said,) = gdb.complaints()
    assert re.search(r"past its entry|ended before|rebooted before|did not reach", said)
    assert "mode" in gdb["pvh mode"]
    assert gdb["info breakpoints"].startswith("No breakpoints")


def test_a_timeout_gives_the_prompt_back(machine: Start, cli: Cli) -> None:
    stub = machine(kernel=cli.file("loops.elf", kernel_elf()))
    gdb = Gdb(
        f"target remote {stub.socket}",
        "pvh run-to-entry",
        "hbreak *0x100000",
        "pvh run-to-entry --reset --timeout 0.01",
        "pvh mode",
    )
    (said,) = gdb.complaints()
    assert "did not reach 0x100000 within 0.01 s" in said
    assert "CPL 0" in gdb["pvh mode"]


@pytest.mark.gdb
def test_ctrl_c_on_the_way_to_the_entry(machine: Start, cli: Cli) -> None:
    """The prompt comes back, and GDB goes on with the machine where it is."""
    stub = machine()
    elsewhere = cli.file("elsewhere.elf", kernel_elf(note=pvh_note(0x3000000)))
    prompt = "(gdb) "
    lines = (f"source {SCRIPT}", f"target remote {stub.socket}", "pvh run-to-entry", "stepi 3", f"set pvh kernel {elsewhere}")
    with Terminal("gdb", "-nx", "-q", *(word for line in lines for word in ("-ex", line))) as gdb:
        gdb.until(prompt)
        gdb.enter("pvh run-to-entry --timeout 60\n", "run-to-entry --timeout 60")
        eventually(lambda: "hello from PVH" in stub.serial(), "the guest does not run")
        assert "before it reached 0x100000 or 0x3000000" in gdb.enter("\x03", prompt)
        assert "CPL 0" in gdb.enter("pvh mode\n", prompt)
        assert "CPL 0" not in gdb.enter("\n", prompt), "an empty line repeats it"
        assert "No breakpoints" in gdb.enter("maint info breakpoints\n", prompt)


# --- for scripts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "code"), [("", 0), ("--strict", 1), ("--select NOPE", 2)])
def test_check_ends_gdb_with_the_exit_code(machine: Start, options: str, code: int) -> None:
    stub = machine()
    gdb = Gdb(
        f"set pvh kernel {HELLO}",
        f"target remote {stub.socket}",
        "pvh run-to-entry",
        f"pvh check --exit {options}".strip(),
        "echo later",
    )
    assert gdb.code == code
    assert f"{MARK}echo later" not in gdb.out
    assert "y or n" not in gdb.out
    eventually(lambda: "hello from PVH" in stub.serial(), "GDB leaves the guest stopped")


@pytest.mark.gdb
def test_a_gdb_script(machine: Start, cli: Cli) -> None:
    stub = machine()
    script = cli.file(
        "gate.gdb", f"source {SCRIPT}\ntarget remote {stub.socket}\npvh run-to-entry\npvh check --exit --format json\n"
    )
    ran = subprocess.run(["gdb", "-nx", "-batch", "-x", script], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0
    assert '"schema": "pvhdbg/report/1"' in ran.stdout


# --- pvhdbg gdb, gdb-path, and where the script lies --------------------------------------------------------------


def test_gdb_path(cli: Cli) -> None:
    path = Path(cli("gdb-path").ok().out.rstrip("\n"))
    assert path.samefile(SCRIPT)


@pytest.mark.parametrize("levels", [2, 4])
def test_pvhdbg_gdb(cli: Cli, machine: Start, paging_kernels: Callable[[int], str], levels: int) -> None:
    """Symbols at both aliases, also of an ELF32 kernel."""
    need("gdb")
    kernel = paging_kernels(levels)
    stub = machine(kernel=kernel)
    script = cli.file(
        "more.gdb",
        "pvh run-to-entry\ninfo symbol $pc\nhbreak there\ninfo breakpoints\ncontinue\ninfo symbol $pc\npvh check --exit\n",
    )
    ran = cli("gdb", kernel, stub.socket, "--", "-nx", "-batch", "-x", script, env={"PYTHONWARNINGS": ""}).ok()
    assert ran.out.count("entry in section .text") == 1
    assert "(2 locations)" in ran.out
    assert re.search(r"^there in section .text", ran.out, re.MULTILINE)
    assert "shown as it was at the entry" in ran.out
    assert ran.out.rstrip().splitlines()[-1]


def test_pvhdbg_gdb_and_bad_input(cli: Cli) -> None:
    cli("gdb", "/nonexistent/vmlinux").complaint(2, "no file")
    cli("gdb", "nonsense").complaint(2, "neither a file nor an address")
    cli("gdb", ":99999").complaint(2, "TCP port")
    cli("gdb", HELLO, "unix:/tmp/a\nb").complaint(2, "printable")
    cli("gdb", HELLO, ":1", env={"PATH": str(cli.folder)}).complaint(3, "not installed")


@pytest.mark.gdb
def test_sourced_twice() -> None:
    gdb = Gdb(f"source {SCRIPT}", "pvh explain PVH-CR0-PE")
    assert gdb.complaints() == []


@pytest.mark.gdb
def test_without_site_packages() -> None:
    """Nothing from pip: not even what happens to be installed for GDB's Python."""
    assert "cr0.PE is set" in Gdb(CLEAN, f"source {SCRIPT}", "pvh explain PVH-CR0-PE", script=None)["pvh explain PVH-CR0-PE"]


def test_every_subcommand_without_site_packages_past_start_kernel(vmlinux: Path, machine: Start, tmp_path: Path) -> None:
    stub = machine("-m", "512M", kernel=str(vmlinux))
    snapshot = tmp_path / "boot.pvhsnap"
    own = {
        "break": "rest_init",
        "run-to-entry": "--reset",
        "milestones": "--for 1",
        "trace": "--what pc --until 20",
        "why": "--for 1",
        "snapshot save": str(snapshot),
        "apropos": "paging",
        "xp": "/8w 0x1000000",
        "symbols": "start_kernel",
        "pagewalk": "$rip",
        "disas": "/4",
        "explain": "PVH-TR-LIMIT",
        "elf": str(vmlinux),
        "diff": f"{snapshot} {snapshot}",
    }
    names = [one.name for one in LIVE if one.name not in TRAVEL]
    lines = [f"pvh {command} {own.get(command, '')}".rstrip() for command in (*names, "break", "run-to-entry")]
    last = [line for line in lines if line.split()[1] in ("milestones", "why", "run-to-entry", "diff")]
    typing = "pvh elf --type pt_regs"
    lines = [*(line for line in lines if line not in last), "pvh elf --symbol start_kernel", typing, *last]
    imported = "python print([name for name in ('iced_x86', 'elftools', 'lz4', 'zstandard') if sys.modules.get(name)])"
    gdb = Gdb(
        CLEAN,
        f"source {SCRIPT}",
        f"set pvh kernel {vmlinux}",
        f"target remote {stub.socket}",
        "pvh run-to-entry",
        "pvh milestones start_kernel",
        "stepi 5",
        *lines,
        imported,
        script=None,
    )
    early, typed = gdb.complaints()  # before its first message a kernel has no log buffer
    assert "no log buffer" in early
    assert "pyelftools" in typed
    assert [line for line in lines if not gdb[line].strip()] == ["pvh cmdline", "pvh dmesg", typing]
    assert gdb[imported] == "[]\n"


@pytest.mark.gdb
def test_an_internal_error_is_one_line_unless_the_stack_is_wanted() -> None:
    broken = "python import pvhdbg.rules.catalogue; pvhdbg.rules.catalogue.find = None"
    gdb = Gdb(broken, "pvh explain PVH-CR0-PE")
    (said,) = gdb.complaints()
    assert said.startswith("pvh: internal error: TypeError")
    words = ["-ex", f"source {SCRIPT}", "-ex", broken, "-ex", "set python print-stack full", "-ex", "pvh explain PVH-CR0-PE"]
    ran = subprocess.run(["gdb", "-nx", "-batch", *words], capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" in ran.stderr
