"""A live session on real machines: at the entry, with each kind of paging, on a snapshot, and with words that are wrong."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from pvhdbg.commands import live
from pvhdbg.commands.table import COMMANDS, LIVE
from pvhdbg.errors import BadInput, MemoryUnreadable, PvhdbgError, TargetError
from pvhdbg.kernel.image import open_kernel
from pvhdbg.machine.running import run_to_entry
from pvhdbg.machine.session import Session
from pvhdbg.model import Snapshot
from pvhdbg.report.style import PLAIN
from pvhdbg.targets.recorded import RecordedTarget
from pvhdbg.targets.remote import RemoteTarget
from tests.support.cli_runner import HELLO, Cli, Machine

Kernels = Callable[[int], str]


@dataclass
class Live:
    """A session with its machine, which a test may let run."""

    session: Session
    target: RemoteTarget

    def __call__(self, line: str) -> str:
        return live.run(self.session, line).text(PLAIN)

    def run_to(self, symbol: str) -> None:
        """To a symbol of the kernel at its linked address."""
        assert self.session.symbols is not None
        address = self.session.symbols.virtual_address(symbol)
        self.target.set_breakpoint(address)
        self.session.resumed()
        self.target.resume()
        self.target.wait(10)
        self.target.clear_breakpoint(address)
        self.session.stopped()


@contextmanager
def live_session(kernel: str, *words: str) -> Iterator[Live]:
    machine = Machine(*words, kernel=kernel)
    try:
        with machine.debugger() as target, open_kernel(kernel) as image:
            yield Live(Session(target, image), target)
    finally:
        machine.close()


@pytest.fixture(scope="module")
def hello() -> Iterator[Live]:
    """`hello` at its entry; tests only read."""
    with live_session(HELLO, "-append", "one two=3") as one:
        run_to_entry(one.session)
        yield one


@pytest.fixture(scope="module", params=[2, 3, 4, 5], ids=["32-bit", "PAE", "4-level", "5-level"])
def paged(request: pytest.FixtureRequest, paging_kernels: Kernels) -> Iterator[tuple[Live, int]]:
    """A kernel that has turned paging on and stands at `there`, by its virtual address; its entry was seen on the way."""
    levels: int = request.param
    with live_session(paging_kernels(levels), "-cpu", "max") as one:
        run_to_entry(one.session)
        at_entry = one("symbols there")
        assert re.search(r"now (0x10\w+), physical \1,", at_entry)
        one.session.boot()
        one.run_to("there")
        yield one, levels


# --- at the entry -------------------------------------------------------------------------------------------------


@pytest.mark.boot
def test_the_parts_of_the_hand_off(hello: Live) -> None:
    assert hello("cmdline") == "one two=3\n"
    assert hello("modules").startswith("0 modules")
    assert "511 MiB" in hello("memmap") or "MiB  RAM" in hello("memmap")
    rsdp = hello("rsdp")
    assert re.match(r"RSDP at 0xf\w+, revision 0", rsdp)
    for table in ("FACP", "APIC", "HPET"):
        assert re.search(rf"    {table} at 0x\w+, \d+ bytes, .*checksum good", rsdp)
    assert "WRONG" not in rsdp
    assert re.search(r"Xen +PHYS32_ENTRY +0x100000", hello("notes"))
    assert hello("entry").startswith("entry 0x100000 <pvh_start>, found by ELF note\nnow   pc 0x100000")


@pytest.mark.boot
def test_a_wrong_checksum_is_told(hello: Live) -> None:
    text = hello("rsdp")
    found = re.search(r"FACP at (0x\w+)", text)
    assert found
    address = int(found[1], 16)
    byte = hello.target.read_memory(address + 20, 1)
    hello.target.write_memory(address + 20, bytes([byte[0] ^ 1]))
    try:
        assert re.search(r"FACP at .*checksum WRONG", hello("rsdp"))
    finally:
        hello.target.write_memory(address + 20, byte)


@pytest.mark.boot
def test_the_gdt_holds_what_the_segments_were_loaded_from(hello: Live) -> None:
    boot = hello.session.boot()
    rows = {int(row[0], 16): row for row in re.findall(r"^  (\w{4})  (\w+)  (\w{8})  dpl", hello("gdt"), re.MULTILINE)}
    for name in ("cs", "ds", "ss"):
        one = boot.segments[name]
        assert one.selector is not None
        _, base, limit = rows[one.selector]
        assert (int(base, 16), int(limit, 16)) == (one.base, one.limit)
    assert re.search(r"0008 .*32-bit code, read/execute  <- cs", hello("gdt"))
    assert "no TSS was loaded" in hello("tss")
    assert "still the real mode's vectors" in hello("idt")


@pytest.mark.boot
def test_code_and_memory(hello: Live) -> None:
    code = Path(HELLO).read_bytes()
    shown = hello("xp/16b 0x100000")
    first = bytes.fromhex(shown.split(": ")[1][:47])
    assert first in code
    assert hello("xp /4w 0x100000").split()[1] == first[3::-1].hex()
    text = hello("disas/3").splitlines()
    assert text[0] == "32-bit protected mode"
    assert text[1] == "<pvh_start>:"
    assert text[2].startswith(f"=> 0x100000:  {first[:5].hex(' ')}")
    assert hello("disas/1 pvh_start+5").splitlines()[-1].startswith("   0x100005:")


@pytest.mark.boot
def test_a_verdict_needs_no_second_look(hello: Live) -> None:
    answer = live.run(hello.session, "check --select PVH-CR0 PVH-TR --strict")
    assert answer.exit_code == 1
    assert live.run(hello.session, "check --select PVH-CR0").exit_code == 0
    assert '"schema": "pvhdbg/report/1"' in live.run(hello.session, "check --format json").render("json", PLAIN)
    assert "version 0" in hello("check --spec v0")
    assert hello.session.settings.spec == "v1"


@pytest.mark.boot
def test_words_for_bits(hello: Live) -> None:
    shown = hello("regs --bits")
    assert shown.startswith(hello("regs"))
    assert re.search(r"cr0\.PE +protection enable: protected mode\n", shown)
    assert len(re.findall(r"cr0\.\w+", shown)) == hello.session.registers()["cr0"].bit_count()


@pytest.mark.boot
def test_the_disassembler_agrees_with_the_monitor(hello: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    from pvhdbg.machine import disassemble

    def instructions() -> list[tuple[str, str]]:
        return re.findall(r"(0x\w+):  ((?:[0-9a-f]{2} )+)", hello("disas/8"))

    by_monitor = instructions()
    monkeypatch.setattr(disassemble, "_by_monitor", lambda *_: [])
    assert instructions() == by_monitor
    assert len(by_monitor) == 8


@pytest.mark.boot
def test_a_long_instruction_is_one(paging_kernels: Kernels) -> None:
    with live_session(paging_kernels(4)) as one:
        run_to_entry(one.session)
        lines = one("disas/3").splitlines()[2:]
        assert [line.split(":")[0].split()[-1] for line in lines] == ["0x100000", "0x10000a", "0x100014"]
        assert re.search(r": +c7 05 (?:\w\w ){8} *movl ", lines[0])


# --- from stop to stop --------------------------------------------------------------------------------------------


@pytest.mark.boot
def test_what_changed_is_marked() -> None:
    with live_session(HELLO) as one:
        run_to_entry(one.session)
        assert "*" not in one("regs")
        before = one.session.registers()
        one.session.resumed()
        one.target.step()
        text = one("regs")
        assert re.search(r"\*eip 00100005", text)
        assert re.search(r"\*esp \w+", text)
        assert " eax" in text
        assert "*eax" not in text
        assert one.session.before == before
        # What was handed over is still known, and said to be of the entry.
        assert "shown as it was at the entry" in one("check")
        assert "found by here" in one("check --here")
        assert one("cmdline") == "\n"


@pytest.mark.boot
def test_a_reset_that_fails_leaves_what_was_seen() -> None:
    with live_session(HELLO, "-no-reboot", "-no-shutdown") as one:
        run_to_entry(one.session)
        one.session.resumed()
        one.target.step()
        with pytest.raises(TargetError, match="did not reset"):
            run_to_entry(one.session, reset=True)
        assert "shown as it was at the entry" in one("check")


# --- paging -------------------------------------------------------------------------------------------------------


@pytest.mark.boot
def test_page_walks_agree_with_qemus_own(paged: tuple[Live, int]) -> None:
    one, levels = paged
    high = 0xFFFFFFFF80000000 if levels >= 4 else 0xC0000000
    unmapped = 0x801000
    for linear in (0, 0x100000, 0x1FFFFF, 0x800123, high, high + 0x123456, unmapped, 0x8FFFFF, 0x1_0000_0000 - 1):
        said = one.target.monitor(f"gva2gpa {linear:#x}")
        told = re.search(r"gpa: (\w+)", said)
        text = one(f"pagewalk {linear:#x}")
        if told is None:
            assert "not mapped" in text, said
        else:
            assert f"physical {int(told[1], 16):#x}, in a page" in text
    shown = one("pagewalk 0x800123").splitlines()
    names = ["PML5", "PML4", "PDPT", "PD", "PT"][5 - levels :]
    assert [line.split()[0] for line in shown[1:-1]] == names
    assert shown[-1].endswith("in a page of 4 KiB; supervisor only, read-only, executable")


@pytest.mark.boot
def test_the_mode_with_paging(paged: tuple[Live, int]) -> None:
    one, levels = paged
    name = {2: "32-bit paging", 3: "PAE paging", 4: "4-level paging", 5: "5-level paging"}[levels]
    width = "64-bit long mode" if levels >= 4 else "32-bit protected mode"
    assert one("mode").startswith(f"{width}, {name}, {64 if levels >= 4 else 32}-bit code, CPL 0\n")
    assert one("disas/1").splitlines()[0] == width
    assert re.search(r"(eip|rip) .*\n", one("regs"))


@pytest.mark.boot
def test_symbols_follow_the_machine(paged: tuple[Live, int]) -> None:
    one, levels = paged
    high = 0xFFFFFFFF80000000 if levels >= 4 else 0xC0000000
    found = re.fullmatch(r"there  now (0x\w+), physical (0x\w+), linked at (0x\w+)\n", one("symbols there"))
    assert found
    assert found[1] == found[3] == hex(int(found[2], 16) + high)
    assert one("disas/1").splitlines()[1:] == ["<there>:", f"=> {found[1]}:  90                       nop"]
    assert one(f"symbols {found[2]}") == f"{found[2]} is there\n"  # the identity map goes to the same place
    assert one("xp/1b there").startswith(f"{int(found[2], 16):#018x}: 90")  # physical, whatever paging says
    assert "is not in a part" in one("symbols 0x300000")


@pytest.mark.boot
def test_the_entry_is_remembered(paged: tuple[Live, int]) -> None:
    one, _ = paged
    assert "entry     0x100000 <entry>, found by ELF note" in one("check")
    assert one("cmdline") == "\n"
    assert "PVH boot ABI, start_info version 1" in one("info")


@pytest.mark.boot
def test_long_mode_tables(paging_kernels: Kernels) -> None:
    with live_session(paging_kernels(4)) as one:
        run_to_entry(one.session)
        one.run_to("there")
        symbols = one.session.symbols
        assert symbols is not None
        gdt = one("gdt")
        tss = symbols.virtual_address("tss")
        assert re.search(rf"0010  {tss:016x}  00000067  dpl 0  \w{{32}}  TSS64-busy  <-.* tr", gdt)
        assert re.search(r"0008 .*64-bit code, read/execute  <- cs", gdt)
        assert re.search(rf"  0 #DE  0008:{symbols.virtual_address('handler'):x}  dpl 0  interrupt gate 64 <handler>", one("idt"))
        assert re.search(rf"rsp0 +{symbols.virtual_address('there'):016x} <there>", one("tss"))
        with pytest.raises(MemoryUnreadable, match="do not map"):
            one("disas 0x400000")


# --- a snapshot ---------------------------------------------------------------------------------------------------


@pytest.mark.boot
def test_a_saved_snapshot_says_the_same(hello: Live, cli: Cli) -> None:
    path = cli.folder / "hello.pvhsnap"
    assert hello(f"snapshot save {path}").startswith(f"{path}: ")
    # A snapshot holds no kernel file, so the rules of the machine are compared.
    assert cli("check", path, "--select", "PVH,SI").ok().out == hello("check --select PVH,SI")
    for command in ("regs", "info"):
        assert cli(command, path).ok().out == hello(command)
    for command in ("segments", "mode", "cmdline", "memmap", "modules", "tss", "gdt"):
        assert cli(command, path).ok().out == hello(command)
    assert cli("pagewalk", path, "$rip").ok().out == "paging is off: linear 0x100000 is physical 0x100000\n"
    assert cli("xp", path, "/8w", "0x100000").ok().out == hello("xp/8w 0x100000")
    cli("xp", path, "0x3000000").complaint(3, "not in the snapshot")
    cli("notes", path).complaint(2, "no kernel file")


# --- words --------------------------------------------------------------------------------------------------------


def test_abbreviations() -> None:
    assert live.find("che")[0].name == "check"
    assert live.find("pa 0x1000") == (live.find("pagewalk")[0], "0x1000")
    assert live.find("sn sa file") == (live.find("snapshot save")[0], "file")
    assert live.find("xp/8w 0x10")[1] == "/8w 0x10"
    with pytest.raises(live.UnknownCommand, match="ambiguous: snapshot save, segments, symbols"):
        live.find("s")
    with pytest.raises(live.UnknownCommand) as unknown:
        live.find("pagwalk 0")
    assert unknown.value.todo == "did you mean pagewalk?"


def nowhere(line: str) -> str:
    """What a command answers that needs no machine."""
    return live.run(Session(RecordedTarget(Snapshot())), line).text(PLAIN)


@pytest.mark.parametrize("command", [command.name for command in LIVE])
def test_help_of_each_command(command: str) -> None:
    text = nowhere(f"help {command}")
    usage = re.search(r"^Usage: (.+)$", text, re.MULTILINE)
    example = re.search(r"^Example: (.+)$", text, re.MULTILINE)
    assert usage
    assert usage[1].startswith(command)
    assert example
    found, rest = live.find(example[1])
    assert found.name == command
    live.values(found, rest)  # the example is one that can be typed


def test_help_and_apropos() -> None:
    overview = nowhere("help")
    for command in LIVE:
        assert command.name in overview
    assert "pagewalk" in nowhere("apropos page")
    assert "PVH-TR-LIMIT" in nowhere("apropos tr")


def test_every_part_is_on_the_command_line_too() -> None:
    # `milestones` is what `trace` shows there when nothing else is asked for. Going back begins at a place: `goto` has it.
    own = {"help", "apropos", "milestones", "back", "reverse-continue", "last-write", "back-to-call"}
    assert {command.name for command in LIVE} - {command.name for command in COMMANDS} == own


@pytest.mark.boot
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nonsense", "is not a command"),
        ("pagewalk", "pagewalk takes an address"),
        ("pagewalk 1 2", "is not an address"),
        ("pagewalk --x", "usage: pagewalk"),
        ("pagewalk pvh_strt", "did you mean pvh_start"),
        ("pagewalk $nonsense", "no register"),
        ("pagewalk 1+", "is not an address"),
        ("pagewalk 0x1ffffffffffffffff", "more than 64 bits"),
        ("pagewalk 08", "is not a number"),
        ("xp 0xfffffffff000", "no RAM or ROM"),
        ("xp /0w 0", "cannot be shown at once"),
        ("xp /999999g 0", "cannot be shown at once"),
        ("xp /4z 0", "is not a format"),
        ("disas /100000", "cannot be shown at once"),
        ("disas 0x900000000", "no RAM or ROM"),
        ("check --select NOPE", "no rule"),
        ("check --spec v9", "usage: check"),
        ("explain", "usage: explain"),
        ("explain 'unclosed", "No closing quotation"),
        ("snapshot save /nonexistent/x", "cannot be written"),
        ("snapshot save -", "to a file only"),
        ("symbols no_such", "no symbol no_such"),
        ("apropos xyzzy", "no command and no rule"),
        ("help xyzzy", "is not a command"),
    ],
)
def test_bad_input_is_one_error_and_the_session_goes_on(hello: Live, line: str, words: str) -> None:
    with pytest.raises(PvhdbgError) as raised:
        hello(line)
    assert isinstance(raised.value, (BadInput, TargetError))
    assert words in f"{raised.value.what} {raised.value.todo}"
    assert "\n" not in raised.value.what + raised.value.todo
    assert hello("entry").startswith("entry 0x100000")


@pytest.mark.boot
def test_completion(hello: Live) -> None:
    complete = partial(live.complete, hello.session)
    assert complete("pa") == ["pagewalk"]
    assert complete("snapshot ") == ["save"]
    assert complete("pagewalk pvh_") == ["pvh_start"]
    assert "$rip" in complete("pagewalk $r")
    assert complete("explain PVH-CR0-P") == ["PVH-CR0-PE", "PVH-CR0-PG"]
    assert complete("check --select PVH-TR-LIMIT,PVH-CR0-PE") == ["PVH-TR-LIMIT,PVH-CR0-PE"]
    assert complete("check --spec ") == ["draft-a", "v0", "v1"]
    assert "--strict" in complete("check --s")
    assert complete("nonsense x") == []
    assert set(complete("")) == {command.name.split()[0] for command in LIVE}
