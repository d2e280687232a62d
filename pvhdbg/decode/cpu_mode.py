"""The mode that a CPU is in, in words, and the bits that say so.

Intel SDM volume 3A, 2.2 (modes), 3.4.5 and 5.2.1 (CS.D and CS.L), 4.1.1 (paging modes).
"""

from __future__ import annotations

from dataclasses import dataclass

from pvhdbg.decode.paging import scheme_of
from pvhdbg.model import Registers, Segments, Unavailable
from pvhdbg.spec.x86 import CR0, CR4, EFER, EFLAGS


@dataclass(frozen=True)
class Evidence:
    """One fact that the mode follows from: "cr0.PE", its value (None: not observed), and what that means."""

    name: str
    value: int | None
    meaning: str


@dataclass(frozen=True)
class CpuMode:
    """`code` is how instructions are decoded, in bits: 16, 32, 64, or None where it could not be learnt."""

    name: str
    paging: str
    code: int | None
    privilege: int | None
    evidence: tuple[Evidence, ...]


def mode_of(registers: Registers, segments: Segments) -> CpuMode:
    """The mode by cr0, cr4, efer, eflags and the hidden state of CS; what was not observed leaves a part of it open."""
    cr0, cr4, efer, eflags = (registers.get(name) for name in ("cr0", "cr4", "efer", "eflags"))
    protected, paging = _bit(cr0, CR0["PE"]), _bit(cr0, CR0["PG"])
    active, virtual = _bit(efer, EFER["LMA"]), _bit(eflags, EFLAGS["VM"])
    cs = segments["cs"]
    long_code, wide = _bit(cs.flags, 21), _bit(cs.flags, 22)
    name, code = _named(protected, active, virtual, long_code, wide)
    evidence = [
        Evidence("cr0.PE", protected, "protection on" if protected else "protection off"),
        Evidence("cr0.PG", paging, "paging on" if paging else "paging off"),
        Evidence("cr4.PAE", _bit(cr4, CR4["PAE"]), "64-bit page table entries" if _bit(cr4, CR4["PAE"]) else "32-bit entries"),
        Evidence("efer.LME", _bit(efer, EFER["LME"]), "long mode with paging" if _bit(efer, EFER["LME"]) else "no long mode"),
        Evidence("efer.LMA", active, "long mode active" if active else "long mode not active"),
        Evidence("CS.L", long_code, _code_words(active, long_code)),
        Evidence("CS.D", wide, "32-bit default size" if wide else "16-bit default size"),
    ]
    if virtual:
        evidence.append(Evidence("eflags.VM", virtual, "virtual-8086"))
    privilege = None
    if protected == 0:
        privilege = 0
    elif cs.flags is not None:
        privilege = segments["ss"].flags >> 13 & 3 if segments["ss"].flags is not None else cs.flags >> 13 & 3
    return CpuMode(name, _paging(registers), code, privilege, tuple(evidence))


def _bit(value: int | None, bit: int) -> int | None:
    return None if value is None else value >> bit & 1


def _named(
    protected: int | None, active: int | None, virtual: int | None, long_code: int | None, wide: int | None
) -> tuple[str, int | None]:
    if protected is None:
        return "mode not observed", None
    if not protected:
        return ("real mode (32-bit code: unreal)", 32) if wide else ("real mode", 16 if wide is not None else None)
    if active:
        if long_code is None:
            return "long mode (64-bit or compatibility: CS was not observed)", None
        return ("64-bit long mode", 64) if long_code else ("compatibility mode", 32 if wide else 16)
    if virtual:
        return "virtual-8086 mode", 16
    if wide is None:
        return "protected mode (16- or 32-bit: CS was not observed)", None
    return ("32-bit protected mode", 32) if wide else ("16-bit protected mode", 16)


def _code_words(active: int | None, long_code: int | None) -> str:
    if not active:
        return "without meaning outside long mode"
    return "64-bit code" if long_code else "compatibility code"


def _paging(registers: Registers) -> str:
    try:
        scheme = scheme_of(registers)
    except Unavailable as gap:
        return f"paging not known: {gap.reason}"
    return "paging off" if scheme is None else scheme.name
