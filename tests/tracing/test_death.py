"""Explanations from what was seen alone: address classes, error codes, causes. Real deaths are in tests/commands/test_why.py."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvhdbg.decode.cpu_mode import Mode
from pvhdbg.errors import MemoryUnreadable
from pvhdbg.model import Backing, BackingKind
from pvhdbg.tracing import faults
from pvhdbg.tracing.addresses import AddressClass, Surroundings, View, classify
from pvhdbg.tracing.death import Awaited, Death, DeathKind, chain_of, unreturned
from pvhdbg.tracing.deaths_without_fault import WITHOUT_A_FAULT
from pvhdbg.tracing.engines.code_there import stores
from pvhdbg.tracing.event import Changes, Event, Fault, FaultKind
from pvhdbg.tracing.explain import OPENINGS, explain

RAM = (
    Backing(0, 0xA0000, BackingKind.RAM, "pc.ram"),
    Backing(0xA0000, 0x20000, BackingKind.IO, "vga"),
    Backing(0xE0000, 0x20000, BackingKind.ROM, "pc.bios"),
    Backing(0x100000, 0x3F00000, BackingKind.RAM, "pc.ram"),
)
FLAT = {"cr0": 0x11, "cr3": 0, "cr4": 0, "efer": 0, "cs_flags": 0xCF9B00, "eflags": 2, "rsp": 0x8000, "idt_base": 0, "idt_limit": 0}
LONG = {**FLAT, "cr0": 0x80000011, "cr3": 0x1000, "cr4": 0x20, "efer": 0x500, "cs_flags": 0xAF9B00}
KERNEL = View(0xFFFFFFFF81000000, 0x1000000, 0x200000)


def memory(pages: dict[int, bytes]) -> Any:
    def read(address: int, size: int) -> bytes:
        for start, data in pages.items():
            if start <= address and address + size <= start + len(data):
                return data[address - start : address - start + size]
        if address < 0x4000000:
            return bytes(size)
        raise MemoryUnreadable(address, size)

    return read


def around(pages: dict[int, bytes] | None = None, **more: Any) -> Surroundings:
    return Surroundings(read=memory(pages or {}), views=(KERNEL,), backing=RAM, **{"handed": (("start_info", 0x9000, 56),), **more})


# PML4[0] -> PDPT at 0x2000, whose first entry maps 1 GiB onto itself
IDENTITY = {0x1000: (0x2003).to_bytes(8, "little"), 0x2000: (0x83).to_bytes(8, "little")}


@pytest.mark.parametrize(
    ("address", "state", "kind"),
    [
        (0x10, FLAT, "null"),
        (0x9010, FLAT, "start_info"),
        (0x1000010, FLAT, "kernel"),
        (0x8000, FLAT, "ram"),
        (0xA0000, FLAT, "device"),
        (0xF0000, FLAT, "rom"),
        (0x5000000, FLAT, "no memory"),
        (0xFFFFFFFF81000010, LONG, "linked"),
        (0xFFFFFFFF81000010, FLAT, "linked"),
        (0xC1000010, FLAT, "linked"),
        (0x0000900000000000, LONG, "not canonical"),
        (0x0000100000000000, LONG, "not mapped"),
        (0x1000010, LONG, "kernel"),
        (0x5000000, LONG, "no memory"),
        (0x8000, {}, "unknown"),
    ],
)
def test_each_class_of_address(address: int, state: dict[str, int], kind: str) -> None:
    found = classify(address, state, around(IDENTITY))
    assert found.kind is AddressClass(kind)
    assert found.words


def test_a_mapped_link_time_address_is_just_the_kernel() -> None:
    pages = {0x1000 + 511 * 8: (0x3003).to_bytes(8, "little"), 0x3000 + 510 * 8: (0x4003).to_bytes(8, "little"),
             0x4000 + 8 * 8: (0x1000083).to_bytes(8, "little")}  # fmt: skip
    assert classify(0xFFFFFFFF81000010, LONG, around(pages)).kind is AddressClass.KERNEL


def test_a_null_pointer_is_one_also_where_a_segment_is_linked_to_0() -> None:
    """Linux' per-CPU segment has p_vaddr 0."""
    per_cpu = View(0, 0x2000000, 0x30000)
    assert classify(0x10, LONG, replace(around(), views=(KERNEL, per_cpu))).kind is AddressClass.NULL


@pytest.mark.parametrize(
    ("code", "state", "cause"),
    [
        (b"\x88\x07", {"rdi": 0x7000, "rax": 0x1242}, "reset"),  # mov %al, (%rdi)
        (b"\xc6\x07\x42", {"rdi": 0x7000}, "reset"),  # movb $0x42, (%rdi)
        (b"\xc6\x07\x43", {"rdi": 0x7000}, "shutdown"),  # another value
        (b"\x88\x27", {"rdi": 0x7000, "rax": 0x4242}, "shutdown"),  # mov %ah, (%rdi): not decoded
        (b"\x89\x07", {"rdi": 0x7000, "rax": 0x42}, "shutdown"),  # four bytes
        (b"\xc6\x07\x42", {"rdi": 0x7100}, "shutdown"),  # elsewhere
    ],
)
@pytest.mark.parametrize("device", ["acpi-ged-regs", "vga"])
def test_acpis_reset_register_is_known_behind_page_tables(code: bytes, state: dict[str, int], cause: str, device: str) -> None:
    """A page at 0x7202 - 0x202 = 0x7000 is mapped to the device's."""
    reset = 0xFEA00202
    state = {**state, "rdi": state["rdi"] + 0x202}
    tables = {0x1000: (0x2003).to_bytes(8, "little"), 0x2000: (0x3003).to_bytes(8, "little"), 0x3000: (0x4003).to_bytes(8, "little"),
              0x4000 + 8 * 7: (reset & ~0xFFF | 3).to_bytes(8, "little")}  # fmt: skip
    here = replace(around(tables), backing=(*RAM, Backing(reset & ~0xFF, (reset & ~0xFF) + 3, BackingKind.IO, device)))
    path = (Event(7, 0x1000100, Mode.LONG, code, Changes({}, {**LONG, **state})),)
    death = Death(DeathKind.SHUTDOWN, LONG, path=path, stores=stores(path))
    found = explain(death, here)
    assert found.cause == (cause if device == "acpi-ged-regs" else "shutdown")
    assert ("wrote 0x42 to 0xfea00202" in found.verdict) == (found.cause == "reset")


@pytest.mark.parametrize(
    ("error", "cr2", "words"),
    [
        (0, 0x10, "a read at 0x10: not present"),
        (2, 0x10, "a write at 0x10: not present"),
        (3, 0x10, "the page is read-only"),
        (0, 0x100000, "fetching the instruction at 0x100000: not present"),
        (0x11, 0x10, "must not be executed"),
        (9, 0x10, "reserved bit"),
    ],
)
def test_page_fault_error_codes(error: int, cr2: int, words: str) -> None:
    assert words in faults.page_fault(Fault(1, FaultKind.EXCEPTION, 14, error, 0x100000, cr2))


def test_selector_error_codes() -> None:
    assert faults.selector(0) == ""
    assert faults.selector(0x18) == "selector 0x18 in the GDT is not usable"
    assert "LDT" in faults.selector(0x1C)
    assert "vector 6 " in faults.selector(0x62, 6)  # as QEMU counts in long mode
    assert "vector 6 " in faults.selector(0x32, 6)  # as the SDM says
    assert "while delivering" in faults.selector(0x19)


def triple(vector: int, error: int = 0, pc: int = 0x100000, cr2: int | None = None, **state: int) -> tuple[Fault, ...]:
    values = {**FLAT, **state}
    return (
        Fault(9, FaultKind.EXCEPTION, vector, error, pc, cr2, values),
        Fault(9, FaultKind.EXCEPTION, 8, 0, pc, None, values),
        Fault(9, FaultKind.TRIPLE_FAULT),
    )


def died(chain: tuple[Fault, ...], code: bytes = b"\x90", **more: Any) -> Death:
    path = (Event(8, 0x100000, Mode.PROTECTED, code),)
    return Death(DeathKind.TRIPLE_FAULT, dict(chain[0].state), chain, **{"path": path, "begun": 9, **more})


@pytest.mark.parametrize(
    ("death", "cause", "words"),
    [
        (died(triple(14, 2, cr2=0x7FFC), b"\x50"), "wild stack", "the stack pointer is 0x8000"),
        (died(triple(14, 0, cr2=0x30000000), b"\x8b\x00"), "bad pointer", "a read at 0x30000000"),
        (died(triple(14, 0, pc=0x30000000, cr2=0x30000000)), "wild jump", "fetching"),
        (died(triple(14, 2, cr2=0xC1000010), b"\x89\x00"), "virtual address too early", "paging is still off"),
        (died(triple(6), b"\x0f\x0b"), "stopped itself", "ud2"),
        (died(triple(6), b"\xc5\xf8\x77"), "#UD", "does not know the instruction"),
        (died(triple(13, rcx=0xC0000080, rax=0x900), b"\x0f\x30"), "wrmsr", "EFER"),
        (died(triple(13, rcx=0x1234), b"\x0f\x32"), "rdmsr", "does not exist"),
        (died(triple(13, 0x18), b"\x8e\xd8"), "bad selector", "selector 0x18 in the GDT"),
        (
            Death(DeathKind.ALIVE, FLAT, loop=(1, 2), awaited=(Awaited(port=0x3FD, value=0),), looped=2.0),
            "in a loop",
            "port 0x3fd (COM1's line status) to change, which reads 0x0",
        ),
        (Death(DeathKind.ALIVE, FLAT, loop=(1,), awaited=(Awaited(port=0x61, value=0xFF),)), "in a loop", "without a device"),
        (Death(DeathKind.EXITED, {}, status=33), "exited", "status 33"),
        (Death(DeathKind.RESET, FLAT), "reset", "asked for the reset itself"),
        (Death(DeathKind.TRIPLE_FAULT, {**FLAT, "cr0": 0x80000010}), "triple fault", "shows none of real mode (CR0.PE is 0)"),
        (Death(DeathKind.TRIPLE_FAULT, FLAT), "triple fault", "faults that led to it were not seen"),
        (died(triple(1, eflags=0x102), b"\x90"), "single step", "eflags.TF is set"),
        (died(triple(1), b"\x90"), "#DB", "#DB debug at"),
        (Death(DeathKind.ALIVE, FLAT), "alive", "no endless loop"),
    ],
)
def test_causes(death: Death, cause: str, words: str) -> None:
    found = explain(death, around())
    assert found.cause == cause
    assert words in found.verdict
    assert found.next


def test_the_hand_off_is_suspected_only_where_the_kernel_stopped_itself() -> None:
    wrong = around(complaints=("magic is 0 (PVH-EBX-MAGIC)",))
    assert "magic is 0" in explain(died(triple(6), b"\x0f\x0b"), wrong).verdict
    assert "magic is 0" not in explain(died(triple(14, 2, cr2=0x7FFC), b"\x50"), wrong).verdict


def test_an_idt_that_nobody_loaded_is_named_the_loaders() -> None:
    kept = around(start={"idt_base": 0, "idt_limit": 0})
    assert "still the loader's IDT" in explain(died(triple(6), b"\x0f\x0b"), kept).verdict
    assert "loader" not in explain(died(triple(6), b"\x0f\x0b"), around()).verdict


def test_only_the_faults_that_killed_are_the_chain() -> None:
    handled = Fault(3, FaultKind.EXCEPTION, 14, 0, 0x5000, 0x10)
    chain = triple(14, cr2=0x7FFC)
    assert chain_of([handled, *chain]) == chain
    assert chain_of([handled]) == ()
    assert chain_of([]) == ()


def test_handlers_that_returned_are_over() -> None:
    one, two, three = (Fault(seq, FaultKind.EXCEPTION, vector) for seq, vector in ((10, 6), (20, 14), (30, 13)))
    tick, as_exception = Fault(5, FaultKind.INTERRUPT, 0x20), Fault(5, FaultKind.INTERRUPT, 8)
    assert unreturned([one, two, three], []) == (one, two, three)
    assert unreturned([one, two, three], [12, 25]) == (three,)  # each had ended before the next
    assert unreturned([one, two, three], [2, 25]) == (one, three)  # an iret that ends nothing: a jump to another segment
    assert unreturned([one, two, three], [31, 32, 33]) == ()
    assert unreturned([tick, one], []) == (tick, one)
    assert unreturned([tick], []) == ()
    assert unreturned([as_exception], []) == (as_exception,)


@pytest.mark.parametrize("kind", [DeathKind.HALTED, DeathKind.LOOP])
def test_a_kernel_that_stops_in_its_handler_died_of_what_it_handles(kind: DeathKind) -> None:
    taken = Fault(9, FaultKind.EXCEPTION, 14, 0, 0x100010, 0xC1000010, {**FLAT, "rsp": 0x8000})
    struck = Event(8, 0x100010, Mode.PROTECTED, b"\x8b\x03")
    death = Death(
        kind, FLAT, path=(Event(20, 0x100100, Mode.PROTECTED, b"\xf4"),), begun=21, loop=(5,), handling=(taken,), struck=struck
    )
    found = explain(death, around())
    assert "has not returned, of #PF page fault at 0x100010" in found.verdict
    assert "8 instructions after the entry" in found.verdict
    assert found.cause == "virtual address too early"
    assert len(found.chain) == 1
    assert explain(replace(death, handling=()), around()).cause in ("halted", "endless loop")
    late = explain(replace(death, handling=(), lately=taken), around())
    assert "The last exception that was seen before is #PF page fault" in late.verdict
    assert late.cause in ("halted", "endless loop")  # it may be over: nothing is blamed on it


def test_panics_are_told_in_the_kernels_own_words() -> None:
    serial = ("[ 1.2] Kernel panic - not syncing: VFS: no root", "[ 1.3] Kernel Offset: disabled")
    assert explain(Death(DeathKind.SHUTDOWN, FLAT), around(serial=serial)).cause == "panic"
    assert "VFS: no root" in explain(Death(DeathKind.PANIC, FLAT), around(serial=serial)).verdict
    rebooted = explain(Death(DeathKind.PANIC, FLAT, ended=DeathKind.RESET), around(serial=serial)).verdict
    assert "VFS: no root" in rebooted
    assert "Then it rebooted, which Linux does by panic= or CONFIG_PANIC_TIMEOUT" in rebooted


def test_a_panic_that_nobody_heard_is_seen_on_the_stack() -> None:
    """Linux without a console panics in silence, and waits in panic() for ever: interrupts are on, and it loops nowhere exactly."""
    names = {0xFFFFFFFF81000123: "panic+0x23", 0xFFFFFFFF81000100: "panic", 0xFFFFFFFF81000200: "vpanic+0x1"}
    pointers = b"".join(value.to_bytes(8, "little") for value in (7, 0xFFFFFFFF81000100, 0xFFFFFFFF81000123))

    def explained(stack: bytes, state: dict[str, int], at: int = 0x8000) -> Any:
        return explain(Death(DeathKind.ALIVE, state), around({**IDENTITY, at: stack.ljust(0x3000, b"\0")}, name=names.get))

    found = explained(pointers, LONG)
    assert (found.cause, found.next) == ("panic", "let it say why, on the serial port: --append console=ttyS0")
    assert "in panic(), 0xffffffff81000123 (panic+0x23)" in found.verdict
    assert explained(bytes(0xFF0) + pointers[16:], LONG).cause == "panic"
    assert explained(pointers[:16], LONG).cause == "alive"  # the function's own address: somebody's pointer
    assert explained(bytes(0x1000) + pointers, LONG).cause == "alive"  # too far above
    assert explained(pointers, {**LONG, "rsp": 0x900000000000}).cause == "alive"
    names[0x81000123] = "panic+0x23"
    assert explained(bytes(4) + (0x81000123).to_bytes(4, "little"), FLAT).cause == "panic"


def test_every_kind_of_death_has_an_opening_and_an_explanation() -> None:
    assert set(OPENINGS) == set(WITHOUT_A_FAULT) == set(DeathKind)


@given(
    st.sampled_from(DeathKind),
    st.dictionaries(st.sampled_from([*FLAT, "rip", "rcx", "gdt_base"]), st.integers(0, (1 << 64) - 1)),
    st.integers(0, 255) | st.none(),
    st.integers(0, 0xFFFF) | st.none(),
    st.integers(0, (1 << 64) - 1) | st.none(),
    st.binary(max_size=15),
)
def test_whatever_a_guest_does_it_is_explained(
    kind: DeathKind, state: dict[str, int], vector: int | None, error: int | None, cr2: int | None, code: bytes
) -> None:
    chain = (Fault(1, FaultKind.EXCEPTION, vector, error, cr2, cr2, state), Fault(1, FaultKind.TRIPLE_FAULT))
    path = (Event(0, 5, Mode.PROTECTED, code), Event(1, cr2 or 0, Mode.LONG, code))
    for death in (
        Death(kind, state, chain, path, path, 2, loop=(5,)),
        Death(kind, state, (), path, path, 2, loop=(5,), handling=chain[:1], struck=path[0]),
        Death(kind, state, (), lately=chain[0]),
    ):
        assert explain(death, around()).verdict.endswith(".")
