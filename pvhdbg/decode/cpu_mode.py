"""The mode of a CPU: the one place that reads it from CR0, CR4, EFER, EFLAGS and the cached descriptor of CS.

Intel SDM volume 3A, 2.2 (modes), 3.4.5 and 5.2.1 (CS.D and CS.L), 4.1.1 (paging modes). QEMU's log names the mode by the hidden
flags of its translator instead (target/i386/cpu.h, HF_*_MASK).
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from pvhdbg.decode.paging import above_4_gib, scheme_of
from pvhdbg.model import Registers, Segments, Unavailable
from pvhdbg.record import dataclass
from pvhdbg.spec.x86 import REGISTER_BITS

# Bits of the cached descriptor of CS (SDM 3A, 3.4.5), which also stand for "64-bit code" and "32-bit code" where nothing shows CS.
CODE_64, CODE_32 = 1 << 21, 1 << 22
OUTSIDE = "EFER.SVME is set: this is a hypervisor's guest seen from outside"
_HF_CS32, _HF_PE, _HF_LMA, _HF_CS64, _HF_VM = 1 << 4, 1 << 7, 1 << 14, 1 << 15, 1 << 17


class Values(Protocol):
    """Register values by the names of `model.Registers`: that class, or a mapping."""

    def get(self, name: str, /) -> int | None: ...


class Mode(Enum):
    """The CPU's mode; the values are those of saved traces, of JSON and of options.

    Where an engine does not show CR0, 32-bit code with paging cannot be told from 32-bit code without it: that is PROTECTED.
    """

    REAL = "real"
    VM86 = "vm86"
    PROTECTED16 = "protected-16"
    PROTECTED = "protected"
    PAGED = "paged"  # with 32-bit page tables
    PAE = "pae"
    COMPATIBILITY = "compatibility"
    LONG = "long"

    @property
    def bits(self) -> int:
        """The width of code: 16, 32 or 64."""
        if self in (Mode.REAL, Mode.VM86, Mode.PROTECTED16):
            return 16
        return 64 if self is Mode.LONG else 32

    @property
    def title(self) -> str:
        """The mode in words, without paging: "32-bit protected mode"."""
        return _TITLES[self]

    @property
    def words(self) -> str:
        """The mode in words, with paging where the mode tells it: "32-bit protected mode with PAE paging"."""
        return self.title + {Mode.PAGED: " with 32-bit paging", Mode.PAE: " with PAE paging"}.get(self, "")


_TITLES = {
    Mode.REAL: "real mode",
    Mode.VM86: "virtual-8086 mode",
    Mode.PROTECTED16: "16-bit protected mode",
    Mode.PROTECTED: "32-bit protected mode",
    Mode.PAGED: "32-bit protected mode",
    Mode.PAE: "32-bit protected mode",
    Mode.COMPATIBILITY: "compatibility mode",
    Mode.LONG: "64-bit long mode",
}


# --- single bits --------------------------------------------------------------------------------------------------


def flag(values: Values, register: str, name: str) -> bool | None:
    """A named bit of cr0, cr4, efer or eflags (see `spec.x86.REGISTER_BITS`); None where the register was not observed."""
    value = values.get(register)
    return None if value is None else bool(value >> REGISTER_BITS[register][name] & 1)


def protected(values: Values) -> bool | None:
    """CR0.PE; None where cr0 was not observed."""
    return flag(values, "cr0", "PE")


def paging_on(values: Values) -> bool | None:
    """CR0.PG; None where cr0 was not observed."""
    return flag(values, "cr0", "PG")


def long_mode_active(values: Values) -> bool | None:
    """EFER.LMA: 64-bit code or compatibility mode; None where neither efer was observed, nor a pc that only 64-bit code has."""
    found = flag(values, "efer", "LMA")
    return True if found is None and above_4_gib(values.get("rip")) else found


def interrupts_on(values: Values) -> bool | None:
    """EFLAGS.IF; None where eflags was not observed."""
    return flag(values, "eflags", "IF")


def virtualised(values: Values) -> bool:
    """Whether a hypervisor is seen from outside while its guest runs: AMD's EFER.SVME is set, which no guest of PVH has at its entry."""
    return flag(values, "efer", "SVME") is True


# --- the mode -----------------------------------------------------------------------------------------------------


def mode_of(cr0: int, cr4: int, efer: int, cs_flags: int | None, eflags: int = 0) -> Mode:
    """The mode that system registers say. `cs_flags` is CS's cached descriptor; None is taken for that of 32-bit code."""
    values = {"cr0": cr0, "cr4": cr4, "efer": efer, "eflags": eflags}
    if not protected(values):
        return Mode.REAL
    flags = CODE_32 if cs_flags is None else cs_flags
    if long_mode_active(values):
        return Mode.LONG if flags & CODE_64 else Mode.COMPATIBILITY
    if flag(values, "eflags", "VM"):
        return Mode.VM86
    if not flags & CODE_32:
        return Mode.PROTECTED16
    if not paging_on(values):
        return Mode.PROTECTED
    return Mode.PAE if flag(values, "cr4", "PAE") else Mode.PAGED


def mode_in(state: Values) -> Mode | None:
    """The mode of a state that holds `cs_flags` beside the registers, as traces do; None where cr0, cr4 or efer is missing."""
    cr0, cr4, efer = (state.get(name) for name in ("cr0", "cr4", "efer"))
    if cr0 is None or cr4 is None or efer is None:
        return None
    return mode_of(cr0, cr4, efer, state.get("cs_flags"), state.get("eflags") or 0)


def mode_of_hflags(flags: int) -> Mode:
    """The mode in the hidden flags of a QEMU log line, which do not tell paging."""
    if not flags & _HF_PE:
        return Mode.REAL
    if flags & _HF_LMA:
        return Mode.LONG if flags & _HF_CS64 else Mode.COMPATIBILITY
    if flags & _HF_VM:
        return Mode.VM86
    return Mode.PROTECTED if flags & _HF_CS32 else Mode.PROTECTED16


def linear_pc(rip: int, cs_base: int | None, bits: int | None) -> int:
    """The linear address of the instruction at `rip`: the base of CS counts outside of 64-bit code.

    `rip` itself where the base is 0 or was not observed; `bits` is the width of code, None where it was not observed.
    """
    return rip if bits == 64 or not cs_base else rip + cs_base & 0xFFFFFFFF


def pc_in(state: Values) -> int | None:
    """The linear pc of a state that holds `cs_base` and `cs_flags` beside the registers; None without rip."""
    rip, mode = state.get("rip"), mode_in(state)
    return None if rip is None else linear_pc(rip, state.get("cs_base"), None if mode is None else mode.bits)


# --- the mode with its evidence -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evidence:
    """One fact that the mode follows from: "cr0.PE", its value (None: not observed), and what that means."""

    name: str
    value: int | None
    meaning: str


@dataclass(frozen=True)
class CpuMode:
    """The mode as far as it was observed. `code` is the width of code in bits, `privilege` the CPL; None: not observed."""

    name: str
    paging: str
    code: int | None
    privilege: int | None
    evidence: tuple[Evidence, ...]
    paged: bool | None

    @property
    def words(self) -> str:
        """The mode and its paging on one line: "32-bit protected mode, paging off", "real mode"."""
        if self.paged is None or self.name.startswith(Mode.REAL.title):
            return self.name
        known = not self.paged or not self.paging.startswith(_PAGING_UNKNOWN)
        return f"{self.name}, {self.paging if known else 'paging on'}"


_PAGING_UNKNOWN = "paging not known"


def observed_mode(registers: Registers, segments: Segments | None = None) -> CpuMode:
    """The mode with its evidence, by cr0, cr4, efer, eflags and the hidden state of CS; what was not observed stays open."""
    segments = segments or Segments()
    cs, ss = segments["cs"].flags, segments["ss"].flags
    facts = {
        name: flag(registers, *name.split("."))
        for name in ("cr0.PE", "cr0.PG", "cr4.PAE", "efer.LME", "efer.LMA")
    } | {"CS.L": None if cs is None else bool(cs & CODE_64), "CS.D": None if cs is None else bool(cs & CODE_32)}  # fmt: skip
    virtual = flag(registers, "eflags", "VM")
    if virtual:
        facts["eflags.VM"] = virtual
    evidence = tuple(Evidence(name, None if on is None else int(on), _meaning(name, on, facts)) for name, on in facts.items())
    privilege = None
    if facts["cr0.PE"] is False:
        privilege = 0
    elif cs is not None:
        privilege = (cs if ss is None else ss) >> 13 & 3
    name, code = _observed(registers, cs)
    return CpuMode(name, _paging(registers), code, privilege, evidence, paging_on(registers))


def runs_64_bit_code(registers: Registers, segments: Segments) -> bool:
    """Whether the CPU runs 64-bit code: CS.L with EFER.LMA. Without hidden state EFER.LMA decides.

    A core file has no EFER: there CS.L with paging decides, because the bit is reserved outside of long mode.
    """
    flags, active = segments["cs"].flags, long_mode_active(registers)
    if active is None:
        return flags is not None and bool(flags & CODE_64) and bool(paging_on(registers))
    return active and (flags is None or bool(flags & CODE_64))


def _observed(registers: Registers, cs_flags: int | None) -> tuple[str, int | None]:
    """The mode's name and the width of code, where CS or a register may be missing."""
    if protected(registers) is None:
        return "mode not observed", None
    cr0, cr4, efer, eflags = (registers.get(name) or 0 for name in ("cr0", "cr4", "efer", "eflags"))
    if long_mode_active(registers):
        efer |= 1 << REGISTER_BITS["efer"]["LMA"]
    mode = mode_of(cr0, cr4, efer, cs_flags, eflags)
    if mode is Mode.VM86:
        return mode.title, mode.bits
    if cs_flags is None:
        open_name = "long mode" if long_mode_active(registers) else "protected mode"
        return (mode.title if mode is Mode.REAL else open_name), None
    if mode is Mode.REAL and cs_flags & CODE_32:
        return f"{mode.title} (32-bit code: unreal)", 32
    if mode is Mode.COMPATIBILITY and not cs_flags & CODE_32:
        return mode.title, 16
    return mode.title, mode.bits


_MEANINGS = {  # of a bit that is 1, and of one that is 0
    "cr0.PE": ("protection on", "protection off"),
    "cr0.PG": ("paging on", "paging off"),
    "cr4.PAE": ("64-bit page table entries", "32-bit entries"),
    "efer.LME": ("long mode with paging", "no long mode"),
    "efer.LMA": ("long mode active", "long mode not active"),
    "CS.L": ("64-bit code", "compatibility code"),
    "CS.D": ("32-bit default size", "16-bit default size"),
    "eflags.VM": ("virtual-8086", ""),
}


def _meaning(name: str, on: bool | None, facts: dict[str, bool | None]) -> str:
    if name == "CS.L" and not facts["efer.LMA"]:
        return "without meaning outside long mode"
    return _MEANINGS[name][0 if on else 1]


def _paging(registers: Registers) -> str:
    try:
        scheme = scheme_of(registers)
    except Unavailable as gap:
        return f"{_PAGING_UNKNOWN}: {gap.reason}"
    return "paging off" if scheme is None else scheme.name
