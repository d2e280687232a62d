"""Bugs of VMMs that look like bugs of the guest: which VMM and versions, what shows them, and what avoids them."""

from __future__ import annotations

from pvhdbg.record import NamedTuple

_EFLAGS_BITS = 22  # Intel SDM volume 1, 3.4.3: bits 22 and up of EFLAGS are reserved and 0 (21 is ID)


class VmmBug(NamedTuple):
    """One bug. It is in versions below `fixed` of `vmm` with `accelerator`; `remedy` is the CPU model that avoids it.

    `missing` is the feature that the remedy takes away, as QEMU's -cpu calls it: nothing else differs from the default CPU.
    """

    key: str
    vmm: str
    fixed: tuple[int, ...]
    accelerator: str
    what: str
    sign: str
    remedy: str
    missing: str
    source: str

    def in_version(self, release: tuple[int, ...]) -> bool:
        """Whether that version has it; False for an unknown version (empty)."""
        return bool(release) and release < self.fixed

    def avoided_by(self, cpu: str) -> bool:
        """Whether this value of -cpu takes the feature away."""
        return any(part in (f"-{self.missing}", f"{self.missing}=off", f"{self.missing}=false") for part in cpu.split(","))


WRONG_EFLAGS = VmmBug(
    "qemu-cmpxchg-eflags",
    "QEMU",
    (8,),
    "tcg",
    "cmpxchg8b and cmpxchg16b leave EFLAGS undefined where an interrupt, a stop or an iret came shortly before: Linux dies of Oopses",
    "a bit of EFLAGS above 21 is set, which no CPU does",
    "qemu64,-cx16",
    "cx16",
    "QEMU target/i386/tcg: mem_helper.c and translate.c up to 7.2, mended by commits 326ad06c and 5f0dd8cd of February 2023",
)
VMM_BUGS = (WRONG_EFLAGS,)


def shows_wrong_eflags(eflags: int | None) -> bool:
    """Whether a value of EFLAGS shows `WRONG_EFLAGS`."""
    return eflags is not None and bool(eflags >> _EFLAGS_BITS)
