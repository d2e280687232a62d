"""Each planted death of `crashers`, and some of small kernels, is explained by its own cause, at its place, with a step that fits."""

from __future__ import annotations

import html
import os
import re
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

import pvhdbg
from pvhdbg import guests
from pvhdbg.driver.death_watch import Diagnosis
from pvhdbg.errors import GuestDied
from pvhdbg.kernel.image import open_kernel
from pvhdbg.targets.run import run_until
from tests.commands.test_living_guests import assembled
from tests.support.cli_runner import Cli, Machine, kernel_elf, pvh_note
from tests.support.schemas import answered

pytestmark = pytest.mark.boot

CRASHERS = str(guests.path("crashers"))
STACK = "mov $0x90000, %esp\n"


@cache
def address(symbol: str) -> int:
    with open_kernel(CRASHERS) as image:
        return image.symbols().virtual_address(symbol)


def died(crash: str, **more: object) -> Diagnosis:
    return pvhdbg.why(CRASHERS, append=f"crash={crash}", **{"seconds": 25.0, **more})  # type: ignore[arg-type]


# name, cause, symbol of the place (None: what the verdict's words say), words of the verdict, words of the next step
FAULTS = [
    ("wild-esp", "wild stack", "wild_push", "the stack pointer is 0xd0000000", "load the stack pointer"),
    ("page-fault", "unmapped code", "after_paging", "do not map the code", "map the code"),
    ("wrmsr", "wrmsr", "faulting_wrmsr", "MSR 0xc0010117 does not take 0x1", "CPUID"),
    ("null-pointer", "null pointer", "null_read", "a read at 0x10: not present", "which register held the pointer"),
    ("null-call", "call through null", None, "`call eax` at {null_call_site} called address 0x0", "that pointer is to be set"),
    ("data-executed", "data executed", "not_code", "the data object not_code: `jmp eax` at {data_jump}", "took its target from"),
    ("own-code", "overwritten code", "overwritten", "16 bytes from {overwritten} on differ (9a 9a", "--last-write"),
    ("read-only", "read-only page", "read_only_store", "a write at 0x150010: the page is read-only", "make the page writable"),
    ("stack-overflow", "stack overflow", "recurse_call", "is on it 1", "see why recurse_call calls itself"),
    (
        "idt-selector",
        "bad IDT gate",
        "idt_selector_fault",
        "names selector 0x78, and it is behind the end of the GDT",
        "code segment",
    ),
    ("idt-short", "null pointer", "idt_short_fault", "the IDT (limit 0x3f) has no entry for vector 14", "which register"),
    ("nested", "null pointer", "nested_fault", "in it came #DE divide error at {nested_divide}", "which register held the pointer"),
    ("nested-forever", "divide by zero", "nested_divide", "for the 1,025th time", "divisor was to be set"),
    ("lgdt-missing", "no GDT of its own", "lgdt_missing_load", "selector 0x78 in the GDT is not usable", "lgdt"),
    ("gdt-selector", "bad selector", "gdt_selector_jump", "behind the end of the GDT (limit 0x1f)", "base and limit"),
    ("gdt-data", "bad selector", "gdt_data_jump", "its descriptor is not that of a code segment", "descriptor of that selector"),
    ("elsewhere", "code mapped elsewhere", None, "to 0x30", "map the code"),
    ("cr3-level", "CR3 one level off", None, "(pdpt), which is a PDPT, not a PML4", "address of the PML4"),
    ("cr3-rom", "page tables not in RAM", None, "CR3 points to 0xf8000, which is in ROM", "into RAM"),
    ("cr3-nowhere", "page tables not in RAM", None, "0xd0000000, which is outside all memory", "into RAM"),
    ("no-lme", "long mode not enabled", None, "EFER.LME is 0", "set EFER.LME"),
    ("no-pse", "large pages without PSE", None, "CR4.PSE is 0", "set CR4.PSE"),
    ("own-tables", "page tables overwritten", "own_tables_end", "now holds 0x0", "--last-write"),
    ("non-canonical", "non-canonical address", "non_canonical_read", "a read at 0x800000001000", "who computed it"),
    ("divide", "divide by zero", "divide_by_zero", "the divisor is 0", "divisor was to be set"),
    ("divide-overflow", "divide overflow", "divide_too_large", "the divisor is 0x2", "upper half of the dividend"),
    ("sse", "SSE not enabled", "sse_instruction", "CR4.OSFXSR is 0", "set CR4.OSFXSR"),
    (
        "feature",
        "missing CPU feature",
        "feature_instruction",
        "it needs rdrand, which this machine's CPU does not have",
        "--cpu max",
    ),
]


@pytest.mark.parametrize(("crash", "cause", "symbol", "words", "step"), FAULTS, ids=[one[0] for one in FAULTS])
def test_a_fault(crash: str, cause: str, symbol: str | None, words: str, step: str) -> None:
    found = died(crash, cpu="qemu64,-cx16" if crash == "feature" else None)
    named = {
        name: f"{address(name):#x} ({name})" for name in (word[1:-1] for word in words.split() if word[:1] + word[-1:] == "{}")
    }
    assert (found.death.kind.value, found.explanation.cause) == ("triple fault", cause)
    assert words.format(**named) in found.explanation.verdict
    assert step in found.explanation.next
    if symbol is not None:
        assert found.death.pc == address(symbol)


def test_an_instruction_that_is_there_and_not_enabled() -> None:
    found = died("xsave", cpu="max,-cx16")
    assert (found.explanation.cause, found.death.pc) == ("XSAVE not enabled", address("xsave_instruction"))
    assert "CR4.OSXSAVE is 0" in found.explanation.verdict


@pytest.mark.parametrize(
    ("crash", "kind", "cause", "words", "step"),
    [
        ("null-call-early", None, "call through null", "`call eax` at {early_call_site} called address 0x0", "that pointer is to be set"),
        ("virtual-address", "nowhere", "virtual address too early", "paging is still off", "physical addresses"),
        ("wild-return", "nowhere", "nowhere", "It came there from {wild_ret}, to 0xd0000000", "took its target from"),
        ("zeros", "zeros", "zeros", "to 0x400000", "to be loaded or copied there"),
        ("stack-into-code", "zeros", "stack overflow", "The stack grew into the kernel's own code", "calls itself"),
        ("esp-rom", None, "stack not in RAM", "The stack pointer was 0xf7ffc, in ROM", "load the stack pointer"),
        ("timer", "halted", "interrupt before the PIC is remapped", "vector 0x8 at {timer_wait}", "remap the PIC"),
        ("handled", "halted", "null pointer", "#PF page fault at {handled_fault}", "which register held the pointer"),
        ("no-exit-device", "halted", "no exit device", "this machine does not have", "-device isa-debug-exit"),
        ("hlt", "halted", "halted", "eflags.IF is 0", "who called"),
        ("endless-loop", "loop", "endless loop", "one instruction that jumps to itself", "who jumps there"),
        ("keyboard-reset", "reset", "reset", "by the keyboard controller: `out 0x64, al` at {keyboard_out} wrote 0xfe", "led there"),
        ("cf9-reset", "reset", "reset", "`out dx, al` at {cf9_out} wrote 0x6 to port 0xcf9", "led there"),
        ("power-off", "shutdown", "power-off", "`out dx, ax` at {power_out} wrote 0x2000 to port 0x604", "led there"),
    ],
)  # fmt: skip
def test_a_death_without_a_fault(crash: str, kind: str | None, cause: str, words: str, step: str) -> None:
    found = died(crash)
    names = [word.strip(",:") for word in words.split() if word.startswith("{")]
    named = {name[1:-1]: f"{address(name[1:-1]):#x} ({name[1:-1]})" for name in names}
    if kind is not None:  # else what lies in the firmware's memory decides how it ends
        assert found.death.kind.value == kind
    assert found.explanation.cause == cause
    assert words.format(**named) in found.explanation.verdict
    assert step in found.explanation.next


def test_the_handlers_end_comes_after_the_fault() -> None:
    found = died("handled")
    assert found.death.path[-1].pc == address("handled_fault")
    assert found.death.after[-1].pc == address("handler") + 1
    assert found.death.state["rip"] == address("handled_fault")  # the registers are those at the fault


def test_a_stack_that_is_not_ram_is_told_also_of_a_guest_that_runs_on() -> None:
    """What it returns to is what QEMU gives for a read from nowhere: with some versions it dies of that."""
    found = died("esp-no-ram", seconds=3.0)
    assert found.explanation.cause == "stack not in RAM"
    assert "outside all memory and devices" in found.explanation.verdict


def test_the_cpu_that_died_is_the_one_that_is_told() -> None:
    found = died("second-cpu", cpus=2)
    assert (found.death.kind.value, found.death.cpu, found.explanation.cause) == ("triple fault", 1, "stopped itself")
    assert "CPU 1 shut down with a triple fault, at 0x8007 in real mode: `ud2`" in found.explanation.verdict
    assert "start-up IPI with vector 0x8" in found.explanation.verdict
    assert "has no entry for vector 6" in found.explanation.verdict


@pytest.mark.parametrize(
    ("crash", "cause", "words", "step"),
    [
        ("started-twice", "started twice", "and began at 0x8000 again", "once to each CPU"),
        (
            "double-sipi",
            "second start-up IPI",
            "by `hlt` with interrupts off at 0x8017, and went on behind it",
            "a second start-up IPI only",
        ),
    ],
)
def test_a_second_cpu_that_is_started_again(crash: str, cause: str, words: str, step: str) -> None:
    found = died(crash, cpus=2)
    if crash == "started-twice" and found.explanation.cause == "second start-up IPI":
        found = died(
            crash, cpus=2
        )  # on a busy host QEMU can serve its INIT late: the start-up IPI then wakes the CPU from its `hlt`
    assert (found.death.kind.value, found.death.cpu, found.explanation.cause) == ("triple fault", 1, cause)
    assert words in found.explanation.verdict
    assert step in found.explanation.next


@pytest.mark.parametrize("device", ["ib700", "i6300esb"])
def test_a_watchdog_that_expired(device: str) -> None:
    found = died("watchdog" if device == "ib700" else "watchdog-pci", extra=("-device", device))
    assert (found.death.kind.value, found.explanation.cause) == ("reset", "watchdog")
    assert "watchdog_wait" in found.explanation.verdict
    assert "reset the timer" in found.explanation.next


def test_a_watchdog_that_does_nothing_ends_nothing() -> None:
    found = died("watchdog", seconds=4.0, extra=("-device", "ib700", "-watchdog-action", "none"))
    assert not found.died


def test_words_on_port_0xe9() -> None:
    found = died("words")
    assert [one.line for one in found.told] == ["fatal: no memory for the heap"]
    assert any("-debugcon" in one for one in found.warnings)


def test_another_cpu_can_be_looked_at(cli: Cli) -> None:
    """The kernel starts no second CPU: it waits where the firmware left it, outside of the kernel."""
    words = ["--append", "crash=endless-loop", "--cpus", "2", "--for", "1", "--format", "json"]
    first, second = (int(cli("why", CRASHERS, *words, "--vcpu", cpu).json()["registers"]["rip"], 16) for cpu in ("0", "1"))
    assert first == address("endless_loop")
    assert second < 0x100000 or second > 0x80000000
    cli("why", CRASHERS, "--cpus", "2", "--vcpu", "2").complaint(2, "no CPU 2")
    cli("why", CRASHERS, "--vcpu", "-1").complaint(2, "not a CPU's number")


def elf_with_data(code: bytes, at: int, data: bytes) -> bytes:
    """`kernel_elf` with one more PT_LOAD."""
    note, headers = pvh_note(), 64 + 3 * 56
    head = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, 62, 1, 0x100000, 64, 0, 0, 64, 56, 3, 0, 0, 0)
    parts = ((1, 5, 0x100000, code), (1, 6, at, data), (4, 4, 0, note))
    rows, offset = b"", headers
    for kind, flags, address, content in parts:
        rows += struct.pack("<IIQQQQQQ", kind, flags, offset, address, address, len(content), len(content), 4 if kind == 4 else 1)
        offset += len(content)
    return head + rows + code + data + note


# Page tables at 3 MiB that map the first 4 MiB one to one.
MAP_4M = """mov $0x300000, %edi\n mov $0x301000, %esi\n mov %esi, %eax\n or $3, %eax\n mov %eax, (%edi)\n mov $3, %eax\n xor %ecx, %ecx
    1: mov %eax, (%esi,%ecx,4)\n add $0x1000, %eax\n inc %ecx\n cmp $1024, %ecx\n jne 1b
    mov %edi, %cr3\n mov %cr0, %eax\n or $0x80000000, %eax\n mov %eax, %cr0\n lidt 0x80000\n"""


def small(tmp_path: Path, text: str, **more: object) -> Diagnosis:
    path = tmp_path / "k"
    path.write_bytes(kernel_elf(assembled(tmp_path, text)))
    return pvhdbg.why(str(path), **{"seconds": 25.0, **more})  # type: ignore[arg-type]


def test_a_kernel_on_its_loaders_stack(tmp_path: Path) -> None:
    """It maps the first 4 MiB, but not the page that the loader's stack is in, and pushes."""
    found = small(
        tmp_path,
        """mov %esp, %ebx\n shr $12, %ebx\n mov $0x300000, %edi\n mov $0x301000, %esi
        mov %esi, %eax\n or $3, %eax\n mov %eax, (%edi)\n mov $3, %eax\n xor %ecx, %ecx
        1: mov %eax, (%esi,%ecx,4)\n add $0x1000, %eax\n inc %ecx\n cmp $1024, %ecx\n jne 1b
        movl $0, (%esi,%ebx,4)\n mov %edi, %cr3\n mov %cr0, %eax\n or $0x80000000, %eax\n mov %eax, %cr0\n push %eax""",
    )
    assert found.explanation.cause == "no stack of its own"
    assert "it is still the loader's" in found.explanation.verdict
    assert "load the stack pointer" in found.explanation.next


def test_an_entry_that_is_not_code(tmp_path: Path) -> None:
    path = tmp_path / "k"
    path.write_bytes(kernel_elf(b"\xeb\xfe" + bytes(0x2000), pvh_note(0x101000)))
    found = pvhdbg.why(str(path), seconds=25.0)
    assert (found.death.kind.value, found.explanation.cause) == ("zeros", "entry is not code")
    assert "XEN_ELFNOTE_PHYS32_ENTRY" in found.explanation.next


def test_a_machine_that_is_too_small(tmp_path: Path) -> None:
    """Its data is at 40 MiB of a machine with 32: the GDT that it loads from there is empty."""
    text = "lgdt 0x2800000\n mov $0x10, %eax\n mov %eax, %ds\n hlt"
    path = tmp_path / "k"
    path.write_bytes(elf_with_data(assembled(tmp_path, text), 0x2800000, bytes([0x17, 0, 8, 0, 0x80, 2, *bytes(0x1000)])))
    found = pvhdbg.why(str(path), memory="32M", seconds=25.0)
    assert found.explanation.cause == "too little memory"
    assert "its segment from 0x2800000 to 0x2801006 is outside of RAM" in found.explanation.verdict
    assert "--memory 42M" in found.explanation.next


@pytest.mark.parametrize("use", ["mov 0x10(%eax), %edx", "jmp *%eax"])
def test_bss_that_nobody_cleared(cli: Cli, tmp_path: Path, machine: Callable[..., Machine], use: str) -> None:
    """A pointer in .bss, which a kernel takes for null: this machine has something else there."""
    text = f"{MAP_4M} mov 0x202000, %eax\n test %eax, %eax\n jz 1f\n {use}\n 1: hlt"
    kernel = tmp_path / "k"
    whole = bytearray(elf_with_data(assembled(tmp_path, text), 0x200000, bytes(range(1, 255))))
    struct.pack_into("<Q", whole, 64 + 56 + 40, 0x4000)  # p_memsz of the second PT_LOAD
    kernel.write_bytes(whole)
    theirs = machine("-no-reboot", "-no-shutdown", "-m", "512M", kernel=str(kernel))
    with theirs.debugger() as target:
        run_until(target, [0x100000], 20)
        target.write_memory(0x202000, (0xD0000000).to_bytes(4, "little"))
    found = cli("why", theirs.socket, "--kernel", kernel, "--for", "20", "--format", "json").ok().json()
    assert found["cause"] == ".bss not cleared"
    assert "read 0xd0000000 from 0x202000, in .bss" in found["verdict"]
    assert "clear .bss at the beginning" in found["next"]


@pytest.mark.parametrize("wait", ["in $0x64, %al\n test $2, %al", "cmpl $0, 0x80000"])
def test_a_kernel_that_waits_is_not_dead(tmp_path: Path, wait: str) -> None:
    found = small(tmp_path, f"cli\n 1: {wait}\n {'jz' if 'in' in wait else 'je'} 1b\n hlt", seconds=1.0)
    assert (found.died, found.explanation.cause) == (False, "in a loop")
    assert ("port 0x64" if "in" in wait else "0x80000") in found.explanation.verdict


REPORTS = ("junit", "github", "html", "sarif", "json", "markdown", "tap")


def plain(text: str) -> str:
    """A report's text without markup and line breaks; escapes of HTML, Markdown and JSON undone."""
    bare = re.sub(r"\\(?=[^A-Za-z0-9\s])", "", html.unescape(re.sub(r"<[^>]+>", "", text))).replace("`", "")
    return re.sub(r"-\s+", "-", " ".join(bare.split()))  # a line may end behind a hyphen


@pytest.mark.parametrize("crash", ["null-pointer", "double-sipi", "keyboard-reset"])
def test_reports_carry_the_same_verdict(cli: Cli, crash: str) -> None:
    """`why`, each report of `check`, `wait`, and what a test of a user's fails with. A wait may not have counted the instructions."""
    cpus = 2 if crash == "double-sipi" else 1
    found = died(crash, cpus=cpus).explanation
    verdict = plain(found.verdict).partition(": ")[2]
    files = {name: cli.folder / name for name in REPORTS}
    words = [word for name, path in files.items() for word in ("--report", f"{name}={path}")]
    about = [CRASHERS, "--append", f"crash={crash}", "--cpus", str(cpus), "--for", "20"]
    shown = cli("check", *about, "--until", "0x180000", *words).ok(1).out
    waited = cli("wait", *about, "--until", "0x180000").ok(1)
    with (
        pvhdbg.launch(CRASHERS, append=f"crash={crash}", cpus=cpus) as guest,
        pytest.raises(GuestDied) as failed,
    ):
        guest.until(0x180000, timeout=20.0)
    texts = {
        "check": shown,
        "wait": waited.out + waited.err,
        "pytest": str(failed.value),
        **{name: path.read_text() for name, path in files.items()},
    }
    assert [name for name, text in texts.items() if verdict not in plain(text)] == []


def test_the_next_step_of_overwritten_code_names_the_writer(cli: Cli) -> None:
    step = died("own-code").explanation.next
    words = step.partition("pvhdbg ")[2].split()
    assert words[:3] == ["goto", "KERNEL", "death"]
    found = cli("goto", CRASHERS, *words[2:], "--append", "crash=own-code").ok().out
    assert "own_code+0x" in found.splitlines()[0]


@pytest.mark.slow
def test_a_death_under_kvm_is_told_by_what_is_left_and_compared_with_tcg(cli: Cli) -> None:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("this machine has no KVM")
    words = [
        "why",
        CRASHERS,
        "--append",
        "crash=page-fault",
        "--accel",
        "kvm",
        "--machine",
        "microvm",
        "--compare-tcg",
        "--timeout",
        "90",
    ]
    found = answered(*words, "--for", "20")
    assert (found["kind"], found["faults"]) == ("shutdown", [])
    assert "nothing was seen of how" in found["verdict"]
    assert any("--compare-tcg" in warning for warning in found["warnings"])
    assert (found["under_tcg"]["kind"], found["under_tcg"]["cause"]) == ("triple fault", "unmapped code")
    cli("why", CRASHERS, "--compare-tcg", "--machine", "microvm").complaint(2, "--accel kvm")


# A data segment of 256 bytes: a CPU refuses the read behind it, and TCG does not look at limits.
BEHIND_THE_LIMIT = """mov $20, %ecx\n 1: dec %ecx\n jnz 1b\n movl $0xff, 0x80008\n movl $0x00409300, 0x8000c\n movw $15, 0x80020
    movl $0x80000, 0x80022\n lgdt 0x80020\n mov $8, %eax\n mov %eax, %ds\n mov 0x100000, %eax\n 1: incl %ebx\n jmp 1b"""


@pytest.mark.slow
def test_where_kvm_and_tcg_part(cli: Cli, tmp_path: Path) -> None:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("this machine has no KVM")
    kernel = cli.file("k", kernel_elf(assembled(tmp_path, BEHIND_THE_LIMIT)))
    found = answered("why", kernel, "--accel", "kvm", "--compare-tcg", "--timeout", "90", "--for", "3")
    assert (found["kind"], found["under_tcg"]["kind"]) == ("shutdown", "alive")
    assert f"after the instruction at {int(found['pc'], 16):#x}, 48 instructions behind the entry" in found["parting"]
    assert "under KVM it ended" in found["parting"]
