"""What the ABI binds and what it leaves free: the bits of each register, the attributes of each segment.

"All other processor registers and flag bits are unspecified" (docs/misc/pvh.pandoc). Two correct VMMs differ in what is free, and
so do two accelerators of one: TCG leaves the accessed bits clear, KVM fills the limit's nibble in from elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pvhdbg.spec.revisions import DRAFT_A, Revision
from pvhdbg.spec.x86 import CR0, EFLAGS

_ALL = (1 << 64) - 1

# Bits by register that are bound; a register that is not named is free.
REGISTERS: Mapping[str, int] = MappingProxyType(
    {
        "rip": _ALL,
        "cr0": sum(1 << bit for name, bit in CR0.items() if name != "ET"),  # ET reads 1 whatever is written
        "cr4": _ALL,
        "eflags": 1 << EFLAGS["VM"] | 1 << EFLAGS["IF"] | 1 << EFLAGS["TF"],
    }
)

# Of the descriptor cache's flags: P, L, D/B and the type. Free are the accessed bit, DPL, AVL, and G with the limit's nibble,
# since the limit itself is compared scaled.
_CODE = 1 << 22 | 1 << 21 | 1 << 15 | 1 << 12 | 1 << 11 | 1 << 9
_DATA = 1 << 22 | 1 << 15 | 1 << 12 | 1 << 11 | 1 << 10 | 1 << 9
_SYSTEM = 1 << 15 | 1 << 12 | 0xF << 8
_SEGMENTS: Mapping[str, int] = MappingProxyType({"cs": _CODE, "ds": _DATA, "es": _DATA, "ss": _DATA, "tr": _SYSTEM})

FREE_POINTER = "where it lies is free, what lies there is compared"
FREE_SELECTOR = "selector values are unspecified"
FREE_REST = "unspecified"
FREE_TABLE = "a guest has to load its own"


def bound_flags(segment: str, revision: Revision) -> int:
    """The bits of a segment's flags that are bound; 0 says that the whole segment is free. Draft A binds fs and gs too."""
    if revision is DRAFT_A and segment in ("fs", "gs"):
        return _DATA
    return _SEGMENTS.get(segment, 0)
