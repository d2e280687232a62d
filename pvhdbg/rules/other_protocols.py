"""The rules that name another boot protocol. They give a remark when its whole signature matches, memory included."""

from __future__ import annotations

from collections.abc import Iterator

from pvhdbg.decode.boot_state import BootState
from pvhdbg.decode.protocol import fits
from pvhdbg.model import Unavailable
from pvhdbg.rules.declare import MachineRule, Severity, Violation, rule
from pvhdbg.rules.examples import Example, at_draft_a_entry, at_entry
from pvhdbg.spec.protocols import SIGNATURES, Signature
from pvhdbg.spec.revisions import ALL, SHIPPED

_BOOT_PARAMS = {0x90202: b"HdrS"}
# Page tables that map the last 2 GiB of the address space to the beginning of memory, and a PV guest's start_info there.
_PV_KERNEL_MAP = 0xFFFFFFFF80000000
_PV_MEMORY = {
    0x91FF8: (0x92003).to_bytes(8, "little"),
    0x92FF0: (0x93003).to_bytes(8, "little"),
    0x93000: (0x00083).to_bytes(8, "little"),
    0x94000: b"xen-3.0-x86_64",
}
_MATCHING: dict[str, Example] = {
    "PVH-ALT-MB1": at_entry(magic=0x24F, eax=0x2BADB002),
    "PVH-ALT-MB2": at_entry(eax=0x36D76289, ebx=0x9000, memory={0x9000: b"\x40\0\0\0\0\0\0\0"}),
    "PVH-ALT-LINUX32": at_entry(ebx=0, ebp=0, edi=0, esi=0x90000, memory=_BOOT_PARAMS),
    "PVH-ALT-LINUX64": at_entry(magic=0, cr0=0x80000011, efer=0x500, rsi=0x90000, memory=_BOOT_PARAMS),
    "PVH-ALT-PV": at_entry(
        magic=0, cr0=0x80000011, cr3=0x91000, cr4=0x20, efer=0x500, rsi=_PV_KERNEL_MAP + 0x94000, memory=_PV_MEMORY
    ),
    "PVH-ALT-DRAFTA": at_draft_a_entry(),
}


def _names(signature: Signature, id: str) -> MachineRule:
    def check(boot: BootState) -> Iterator[Violation]:
        hidden = boot.snapshot.memory.hidden_by
        if hidden is not None and fits(signature, boot.registers):
            raise Unavailable(hidden)
        if boot.other_protocol is signature:
            registers = ", ".join(f"{name} = {boot.registers[name]:#x}" for name in signature.registers)
            yield Violation("entry", "the PVH boot ABI", f"{signature.title}" + (f" ({registers})" if registers else ""))

    check.__doc__ = f"{signature.clause.words}\nNext step: {signature.advice}."
    return rule(
        id,
        f"the machine was not entered by {signature.title}",
        clause=signature.clause,
        severity=Severity.INFO,
        # With --spec draft-a, Draft A is not another protocol.
        revisions=SHIPPED if signature.key == "draft-a" else ALL,
        passes=[at_entry()],
        fails=[_MATCHING[id]],
        names_protocol=True,
    )(check)


CHAPTER: tuple[MachineRule, ...] = tuple(_names(signature, signature.rule) for signature in SIGNATURES if signature.rule)
