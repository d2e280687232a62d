"""Watchpoints, `finish`, `display` and the context of a stop, on real machines: with QEMU's watchpoints, without them, and through GDB."""

import json
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pvhdbg.repl.conversation import Conversation
from tests.support.cli_runner import HELLO, LOOP, Cli, Start, kernel_elf, scratch
from tests.support.limited_stub import LimitedStub
from tests.support.prompt import LONG_MODE, Talk, talking

pytestmark = pytest.mark.boot

DATA = 0x200000
# mov eax,[DATA]; mov dword [DATA],5; mov dword [DATA],5; inc dword [DATA]; jmp .
TOUCHES = (
    b"\xa1" + struct.pack("<I", DATA)
    + 2 * (b"\xc7\x05" + struct.pack("<II", DATA, 5))
    + b"\xff\x05" + struct.pack("<I", DATA) + LOOP
)  # fmt: skip


@pytest.fixture(scope="module")
def touches() -> Iterator[str]:
    """A kernel that reads a word, and writes it three times."""
    with scratch() as folder:
        path = folder / "touches.elf"
        path.write_bytes(kernel_elf(TOUCHES))
        yield str(path)


# --- watchpoints --------------------------------------------------------------------------------------------------


def test_watchpoints_of_the_stub(touches: str) -> None:
    with talking(touches) as one:
        assert one(f"watch {DATA:#x}") == f"watchpoint 1: {DATA:#x}, 4 bytes at {DATA:#x}, now 0x0\n"
        one(f"rwatch {DATA:#x}:1")
        assert one("c").startswith(f"watchpoint 2, {DATA:#x}: read, it holds 0x0; now at 0x100005")
        one("delete 2")
        assert one("c").startswith(f"watchpoint 1, {DATA:#x}: 0x0 -> 0x5; now at 0x10000f")
        assert one("").startswith(f"watchpoint 1, {DATA:#x}: written, it holds 0x5; now at 0x100019")
        assert one("stepi 9").startswith(f"watchpoint 1, {DATA:#x}: 0x5 -> 0x6; now at 0x10001f")
        assert one("info breakpoints") == f"1   watch     {DATA:#x}                 4 bytes at {DATA:#x}, hit 3 times\n"
        one("b 0x100000")
        assert re.findall(r"^(\d)", one("info breakpoints"), re.MULTILINE) == ["1", "3"]  # one series of numbers
        (watch, stop) = json.loads(one("info breakpoints --format json"))["stops"]
        assert (watch["command"], watch["size"], watch["hits"], watch["value"]) == ("watch", 4, 3, "06000000")
        assert (stop["command"], stop["size"]) == ("break", None)
        one("delete")
        assert one("info breakpoints") == "no breakpoints\n"
        assert one.interrupted("c").startswith("interrupted: ")
        assert one("restart").startswith("booted again")


def test_a_watchpoint_survives_a_restart_and_a_trace(touches: str) -> None:
    with talking(touches) as one:
        one(f"awatch {DATA:#x}")
        one("trace --what pc --until 4")  # which runs over all accesses, and stops at its own goal
        assert "hit" not in one("info breakpoints")
        one("restart")
        assert "read or written" in one("c")


def test_a_symbol_is_watched_before_paging_and_after(paging_kernels: Callable[[int], str]) -> None:
    with talking(paging_kernels(4)) as one:
        made = one("rwatch there:2")
        assert re.search(r"2 bytes at 0x10\w+ and 0xffffffff801\w+", made)


@pytest.mark.gdb
def test_watchpoints_through_gdb(touches: str) -> None:
    with talking(touches) as one:
        one(f"watch {DATA:#x}")
        one("p 1")  # GDB takes the stub
        assert one.it.machine.gdb is not None
        assert one("c").startswith(f"watchpoint 1, {DATA:#x}: 0x0 -> 0x5; now at 0x10000f")
        one("watch *(int *)0x300000")  # an expression of C is GDB's own
        assert "atchpoint" in "".join(one.written)
        one("delete")
        assert one.interrupted("c").startswith("interrupted: ")


def test_a_stub_without_watchpoints_is_stepped(machine: Start, touches: str, tmp_path: Path) -> None:
    stub = machine(kernel=touches)
    with LimitedStub(stub.socket, tmp_path) as limited, talking(limited.address, "attach", kernel=touches) as one:
        made = one(f"watch {DATA:#x}")
        assert "the machine is stepped" in made
        assert "by steps" in one("info breakpoints")
        assert one("c").startswith(f"watchpoint 1, {DATA:#x}: 0x0 -> 0x5; now at 0x10000f")
        assert "0x5 -> 0x6" in one("c")  # a store of the same value is not seen
        assert "steps do not show a load" in one.wrong(f"rwatch {DATA:#x}")
        one("delete")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("watch", "usage: watch"),
        ("watch nowhere", "no symbol nowhere"),
        ("watch 0x1000:0", "cannot be watched"),
        ("watch 0x1000:99999", "cannot be watched"),
        ("delete 9", "breakpoint 9 does not exist"),
        ("display $nothing", "no register $nothing"),
        ("display/4q $rsp", "is not a format"),
        ("display/4x", "usage: display"),
        ("undisplay 9", "display 9 does not exist"),
        ("set context stak off", "the parts are registers, code, source, stack, serial"),
        ("set context stack", "neither on nor off"),
    ],
)
def test_bad_input_is_one_line(shared: Talk, line: str, words: str) -> None:
    assert words in shared.wrong(line)


@pytest.fixture(scope="module")
def shared() -> Iterator[Talk]:
    with talking(LONG_MODE, via="remote") as one:
        yield one


def test_a_deterministic_machine_says_what_to_do_instead() -> None:
    with talking(HELLO, deterministic=True) as one:
        assert "last-write ADDRESS" in one.wrong("watch 0x1000")


# --- finish -------------------------------------------------------------------------------------------------------

# 0 call f; 5 jmp .; 7 f: cmp eax,3; je 19; inc eax; call f; mov ecx,1; ret; 19: ret
RECURSIVE = (
    b"\xbc\x00\x00\x30\x00\xe8\x02\x00\x00\x00" + LOOP + b"\x83\xf8\x03\x74\x0c\x40\xe8\xf5\xff\xff\xff\xb9\x01\x00\x00\x00\xc3\xc3"
)


def test_finish_returns_to_the_caller() -> None:
    with talking(LONG_MODE) as one:
        one("until map_4g")
        one("si")
        assert one("finish").startswith("map_4g returned to 0x100011 <enable_pae>, 32-bit protected mode, eax 0x")


def test_finish_leaves_out_the_returns_of_calls_inside() -> None:
    """`print` returns once for each string; the first return is that of the outer call's own frame."""
    with talking(HELLO) as one:
        one("until check_magic")
        said = one("finish")
        assert said.startswith("check_magic returned to 0x100011 <pvh_start+0x11>")
        one("b print")
        one("c")
        one("delete")
        assert one("finish").startswith("print returned to 0x10001b <pvh_start+0x1b>")


def test_finish_of_a_recursive_function_without_symbols(cli: Cli) -> None:
    """The deepest returns are those of other frames: steps tell by the stack pointer, and calls are run over."""
    with talking(cli.file("recursive", kernel_elf(RECURSIVE))) as one:
        one("until 0x10000c")
        assert one("finish").startswith("the function returned to 0x10000a, 32-bit protected mode, eax 0x")
        assert "0x3" in one("info registers rax")


def test_finish_of_what_dies() -> None:
    from pvhdbg.guests import path as guest

    with talking(str(guest("crashers")), append="crash=page-fault") as one:
        one("until page_fault")
        one("si 3")
        assert one("finish").startswith("the guest shut down or triple-faulted")


def test_finish_stops_at_what_the_user_set() -> None:
    with talking(HELLO) as one:
        one("until print")
        one("b print+1")
        assert one("finish").startswith("breakpoint 1, ")


def test_finish_of_what_never_returns_ends_with_its_time() -> None:
    with talking(HELLO, timeout=1.5) as one:
        one("until halt")
        result = one.run("finish")
        assert result.text.startswith("halt did not return within 1.5 s (--timeout): interrupted: ")
        assert result.exit_code == 3


# --- display and context ------------------------------------------------------------------------------------------


def test_displays_are_shown_at_each_stop() -> None:
    with talking(LONG_MODE) as one:
        assert one("display $esp") == "1: $esp = 0x6edc\n" or "1: $esp = 0x" in one("display")
        assert one("display/1i $pc").startswith("2: /1i $pc\n  <pvh_start>:\n  => 0x100000:")
        one("display 0x102000")
        text = one("si")
        assert "1: $esp = 0x10" in text
        assert "=> 0x100005" in text
        assert "3: /x 0x102000\n  0x102000:  0x00000000\n" in text
        assert "1: $esp" not in one("regs")  # the machine did not move
        one("undisplay 1")
        assert "1: $esp" not in one("si")
        shown = json.loads(one("display --format json"))["displays"]
        assert [(each["number"], each["what"]) for each in shown] == [(2, "/1i $pc"), (3, "/x 0x102000")]
        one("undisplay")
        assert one("display") == "no displays\n"


def test_an_answer_in_json_is_one_document() -> None:
    with talking(LONG_MODE) as one:
        one("display $esp")
        one("set context on")
        assert json.loads(one("trace --what pc --until 2 --format json"))
        view = json.loads(one("context --format json"))
        assert view["schema"] == "pvhdbg/context/1"
        assert view["code"][0]["current"] is True


def test_the_context_compares_with_the_stop_that_was_shown_last() -> None:
    """`finish` stops many times on its way, which is not shown."""
    with talking(LONG_MODE) as one:
        one("until map_4g")
        one("set context on")
        view = one("finish")
        assert "changed\n  eax 0x" in view
        assert "ecx 0x" in view
        assert "=> 0x100011" in view
        assert view.count("=> 0x100011") == 1  # not also below the reason of the stop


def test_parts_of_the_context() -> None:
    with talking(HELLO) as one:
        assert one("set context") == "context off: registers, code, source, stack, serial\n"
        one("set context stack registers off")
        one("set context on")
        one("b halt")
        view = one("c")
        assert "stack" not in view
        assert "changed" not in view
        assert "serial  | hello from PVH" in view
        assert "=> 0x100058" in view
        one("set context off")
        assert "──" not in one("restart")


def test_a_part_that_cannot_be_read_says_why() -> None:
    from pvhdbg.guests import path as guest

    with talking(str(guest("crashers")), append="crash=wild-esp") as one:
        one("c")
        assert re.search(r"^stack: .* at 0xd0000000 cannot be read: the page tables do not map it", one("context"), re.MULTILINE)


def test_the_source_line(cli: Cli) -> None:
    import subprocess

    from tests.support.programs import need

    need("as", "ld")
    source = cli.folder / "small.s"
    source.write_text(
        ".code32\n.globl start\n.type start,@function\nstart:\n  nop\n  jmp start\n"
        '.section .note.Xen,"a",@note\n.long 4,4,18\n.asciz "Xen"\n.long 0x100000\n'
    )
    script = cli.folder / "small.ld"
    script.write_text(
        "PHDRS { text PT_LOAD; note PT_NOTE; }\n"
        "SECTIONS { . = 0x100000; .text : { *(.text) } :text .note.Xen : { *(.note.Xen) } :text :note }\n"
    )
    for words in (("as", "--32", "-g", "-mx86-used-note=no", "-o", "small.o", "small.s"),
                  ("ld", "-m", "elf_i386", "-nostdlib", "--build-id=none", "-T", "small.ld", "-o", "small.elf", "small.o")):  # fmt: skip
        subprocess.run(words, cwd=cli.folder, check=True)
    with talking(str(cli.folder / "small.elf")) as one:
        assert re.search(r"^source  .*small\.s:5  nop$", one("context"), re.MULTILINE)
        one("si")
        assert re.search(r"small\.s:6  jmp start$", one("context"), re.MULTILINE)
        source.unlink()
        source.mkdir()  # what the file names need not be a file
        one("si")
        one("set context source off")
        assert "small.s" not in one("context")


def test_a_conversation_shows_no_context_unless_it_is_asked_for() -> None:
    with talking(HELLO) as one:
        assert isinstance(one.it, Conversation)
        assert "──" not in one("si")
