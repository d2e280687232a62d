"""What the ABI specifies (bound) and what it leaves unspecified (free): register bits and segment attributes.

"All other processor registers and flag bits are unspecified" (docs/misc/pvh.pandoc). Two correct VMMs differ in what is free,
and so do two accelerators of one VMM: TCG leaves the accessed bits clear, KVM takes the limit's nibble from elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pvhdbg.spec.revisions import DRAFT_A, Revision
from pvhdbg.spec.x86 import CR0, EFLAGS

_ALL = (1 << 64) - 1

# The bound bits of each register; a register that is not named is free.
REGISTERS: Mapping[str, int] = MappingProxyType(
    {
        "rip": _ALL,
        "cr0": sum(1 << bit for name, bit in CR0.items() if name != "ET"),  # ET reads 1 whatever is written
        "cr4": _ALL,
        "eflags": 1 << EFLAGS["VM"] | 1 << EFLAGS["IF"] | 1 << EFLAGS["TF"],
    }
)

# The bound flags of the descriptor cache: P, L, D/B and the type. Free are the accessed bit, DPL, AVL, and G with the limit's
# nibble, since the limit itself is compared scaled.
_CODE = 1 << 22 | 1 << 21 | 1 << 15 | 1 << 12 | 1 << 11 | 1 << 9
_DATA = 1 << 22 | 1 << 15 | 1 << 12 | 1 << 11 | 1 << 10 | 1 << 9
_SYSTEM = 1 << 15 | 1 << 12 | 0xF << 8
_SEGMENTS: Mapping[str, int] = MappingProxyType({"cs": _CODE, "ds": _DATA, "es": _DATA, "ss": _DATA, "tr": _SYSTEM})

FREE_POINTER = "the address is free, the content is compared"
FREE_SELECTOR = "selector values are unspecified"
FREE_REST = "unspecified"
FREE_TABLE = "a guest must load its own"


def bound_flags(segment: str, revision: Revision) -> int:
    """The bound bits of a segment's flags; 0 if the whole segment is free. Draft A binds fs and gs too."""
    if revision is DRAFT_A and segment in ("fs", "gs"):
        return _DATA
    return _SEGMENTS.get(segment, 0)
