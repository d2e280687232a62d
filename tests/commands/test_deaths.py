"""Each planted death of `crashers`, and some of small kernels, is explained by its own cause, at its place, with a step that fits."""

import html
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pvhdbg
from planted import judge
from planted.deaths import CRASHERS as DEATHS
from planted.deaths import SMALL, Planted
from planted.judge import CRASHERS, address
from pvhdbg.driver.death_watch import Diagnosis
from pvhdbg.errors import GuestDied
from pvhdbg.targets.run import run_until
from tests.support.cli_runner import Cli, Machine, kernel_elf
from tests.support.schemas import answered
from tests.support.small_kernels import FLAT_STACK, OWN_GDT, OWN_IDT, assembled, elf_with_data

pytestmark = pytest.mark.boot

BY_NAME = {one.name: one for one in DEATHS}


def died(crash: str, **more: object) -> Diagnosis:
    return judge.of_crashers(BY_NAME[crash], **more)


# test_why.py asks for these by the command line, and for more than the table says.
IN_FULL = {"wild-esp", "page-fault", "wrmsr", "virtual-address", "endless-loop", "hlt", "zeros"}


@pytest.mark.parametrize("name", sorted(BY_NAME.keys() - IN_FULL))
def test_a_planted_death(name: str) -> None:
    assert judge.wrong(BY_NAME[name], died(name)) == ""


@pytest.mark.parametrize("one", SMALL, ids=[one.name for one in SMALL])
def test_a_death_of_a_small_kernel(one: Planted, tmp_path: Path) -> None:
    assert judge.wrong(one, judge.of_small(one, tmp_path)) == ""


def test_each_death_of_crashers_is_declared_once() -> None:
    source = Path(__file__).parents[2] / "sample_guests/crashers/crashers.S"
    assert sorted(one.name for one in DEATHS) == sorted(re.findall(r"CHOICE +([\w-]+)", source.read_text()))


def test_the_handlers_end_comes_after_the_fault() -> None:
    found = died("handled")
    assert found.death.path[-1].pc == address("handled_fault")
    assert found.death.after[-1].pc == address("handler") + 1
    assert found.death.state["rip"] == address("handled_fault")  # the registers are those at the fault


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


# Page tables at 3 MiB that map the first 4 MiB one to one.
MAP_4M = """mov $0x300000, %edi\n mov $0x301000, %esi\n mov %esi, %eax\n or $3, %eax\n mov %eax, (%edi)\n mov $3, %eax\n xor %ecx, %ecx
    1: mov %eax, (%esi,%ecx,4)\n add $0x1000, %eax\n inc %ecx\n cmp $1024, %ecx\n jne 1b
    mov %edi, %cr3\n mov %cr0, %eax\n or $0x80000000, %eax\n mov %eax, %cr0\n lidt 0x80000\n"""


def small(tmp_path: Path, text: str, **more: object) -> Diagnosis:
    path = tmp_path / "k"
    path.write_bytes(kernel_elf(assembled(tmp_path, text)))
    return pvhdbg.why(str(path), **{"seconds": 25.0, **more})  # type: ignore[arg-type]


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


def test_a_death_behind_tens_of_thousands_of_handled_faults(tmp_path: Path) -> None:
    """Only the last of them are looked at, and each of those has returned."""
    text = f"""{FLAT_STACK} {OWN_GDT} {OWN_IDT} mov $30000, %ebp
        1: ud2\n dec %ebp\n jnz 1b\n lidt none\n ud2\n handler: addl $2, (%esp)\n iret\n none: .word 0\n .long 0"""
    found = small(tmp_path, text)
    assert (found.death.handling, found.death.last and found.death.last.vector) == ((), 6)
    assert found.explanation.chain[-1].startswith("triple fault")
    assert "the IDT (limit 0x0) has no entry for vector 6" in found.explanation.verdict
    assert 120_000 < (found.death.roughly or 0) < 160_000


@pytest.mark.parametrize(
    ("text", "cause", "words"),
    [
        # QEMU logs the first byte of it alone, and no fault of real mode
        ("mov %cr0, %eax\n or $4, %eax\n mov %eax, %cr0\n fld1\n hlt", "FPU not enabled", "`fld1` needs the FPU: CR0.EM is set"),
        ("mov %cr0, %eax\n btr $0, %eax\n bts $31, %eax\n mov %eax, %cr0\n hlt", "triple fault", "QEMU shows none of real mode"),
        ("pushf\n orl $0x100, (%esp)\n popf\n nop\n nop\n hlt", "single step", "eflags.TF is set"),
    ],
)
def test_what_is_told_of_a_fault_that_qemu_shows_in_part(tmp_path: Path, text: str, cause: str, words: str) -> None:
    found = small(tmp_path, f"{FLAT_STACK} {OWN_GDT} {text}")
    assert (found.explanation.cause, words in found.explanation.verdict) == (cause, True), found.explanation.verdict


def test_of_thousands_of_nested_faults_the_first_is_not_claimed_to_be_known(tmp_path: Path) -> None:
    """The handler of a `ud2` divides by zero, 5,461 times, until its stack has run into the IDT."""
    found = small(tmp_path, f"{FLAT_STACK} {OWN_GDT} {OWN_IDT} ud2\n handler: xor %ecx, %ecx\n div %ecx")
    assert re.search(r"for at least the [2-5],\d{3}th time", found.explanation.verdict)
    assert "the first of all may have been another" in found.explanation.verdict


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


def reported(cli: Cli, kernel: str, **options: Any) -> dict[str, str]:
    """What each report of `check`, `wait`, and a test of a user's that fails say of a death."""
    files = {name: cli.folder / name for name in REPORTS}
    words = [word for name, path in files.items() for word in ("--report", f"{name}={path}")]
    about = [kernel, *(word for name, value in options.items() for word in (f"--{name}", str(value))), "--for", "20"]
    shown = cli("check", *about, "--until", "0x180000", *words).ok(1).out
    waited = cli("wait", *about, "--until", "0x180000").ok(1)
    with pvhdbg.launch(kernel, **options) as guest, pytest.raises(GuestDied) as failed:
        guest.until(0x180000, timeout=20.0)
    return {
        "check": shown,
        "wait": waited.out + waited.err,
        "pytest": str(failed.value),
        **{name: path.read_text() for name, path in files.items()},
    }


@pytest.mark.parametrize("crash", ["null-pointer", "double-sipi", "keyboard-reset", "stack-into-tables", "acpi-reset"])
def test_reports_carry_the_same_verdict(cli: Cli, crash: str) -> None:
    """That of `why`. A wait may not have counted the instructions."""
    verdict = plain(died(crash).explanation.verdict).partition(": ")[2]
    texts = reported(cli, CRASHERS, append=f"crash={crash}", **BY_NAME[crash].options)
    assert [name for name, text in texts.items() if verdict not in plain(text)] == []


def test_reports_carry_the_last_words_and_their_usual_cause(cli: Cli, tmp_path: Path) -> None:
    text = """mov $said, %esi\n mov $0x3f8, %dx\n 1: lodsb\n test %al, %al\n jz 2f\n out %al, %dx\n jmp 1b\n 2: cli\n hlt
        said: .asciz "Initramfs unpacking failed: junk\\n" """
    kernel = cli.file("k", kernel_elf(assembled(tmp_path, text)))
    (told,) = pvhdbg.why(kernel, seconds=20.0).told
    assert told.line == "Initramfs unpacking failed: junk"
    words = (told.line, plain(f"usually: {told.meaning}"))
    assert [name for name, text in reported(cli, kernel).items() if any(one not in plain(text) for one in words)] == []
    found = cli("wait", kernel, "--until", "0x180000", "--format", "json").ok(1).json()
    assert found["words"] == [{"line": told.line, "usually": told.meaning}]


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


# A data segment of 256 bytes: a CPU refuses the read behind it, and TCG does not look at limits.
BEHIND_THE_LIMIT = """mov $20, %ecx\n 1: dec %ecx\n jnz 1b\n movl $0xff, 0x80008\n movl $0x00409300, 0x8000c\n movw $15, 0x80020
    movl $0x80000, 0x80022\n lgdt 0x80020\n mov $8, %eax\n mov %eax, %ds\n mov 0x100000, %eax\n 1: incl %ebx\n jmp 1b"""


@pytest.mark.slow
def test_where_kvm_and_tcg_part(cli: Cli, tmp_path: Path) -> None:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("this machine has no KVM")
    kernel = cli.file("k", kernel_elf(assembled(tmp_path, BEHIND_THE_LIMIT)))
    found = answered("why", kernel, "--accel", "kvm", "--machine", "microvm", "--compare-tcg", "--timeout", "90", "--for", "3")
    assert (found["kind"], found["under_tcg"]["kind"]) == ("shutdown", "alive")
    assert f"after the instruction at {int(found['pc'], 16):#x}, 48 instructions behind the entry" in found["parting"]
    assert "under KVM it ended" in found["parting"]
