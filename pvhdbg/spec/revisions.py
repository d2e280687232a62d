"""The revisions of the boot ABI: which register points at the structure, and which layouts it may have.

A revision is an object that holds the differences, so that a rule never compares version numbers.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Literal

from pvhdbg.layout import Structure
from pvhdbg.record import dataclass
from pvhdbg.spec.documents import DRAFT_A_MAIL, PVH_PANDOC, Document
from pvhdbg.spec.start_info import DraftAStartInfo32, DraftAStartInfo64, StartInfoV0, StartInfoV1


@dataclass(frozen=True)
class Revision:
    """One version of the ABI's text.

    `pointer` is the register that holds the structure's physical address; `layouts` maps the structure's own version
    (or, for Draft A, the guest's width in bits) to its layout. `abi` names what a hand-off conforms to.
    """

    name: str
    title: str
    date: str
    origin: str
    document: Document
    pointer: str
    layouts: MappingProxyType[int, type[Structure]]
    abi: str = "the PVH boot ABI"

    def __str__(self) -> str:
        return self.name


DRAFT_A = Revision(
    "draft-a",
    "Draft A (2015)",
    "2015-06-10",
    "xen-devel, Roger Pau Monné",
    DRAFT_A_MAIL,
    "esi",
    MappingProxyType({32: DraftAStartInfo32, 64: DraftAStartInfo64}),
    "Draft A of the PVH boot ABI (2015)",
)
V0 = Revision(
    "v0",
    "PVH boot ABI, version 0",
    "2016-04-12",
    "Xen 247d38c870 (4.7)",
    PVH_PANDOC,
    "ebx",
    MappingProxyType({0: StartInfoV0}),
)
V1 = Revision(
    "v1",
    "PVH boot ABI, version 1",
    "2018-04-02",
    "Xen 7e4eaf428b (4.11)",
    PVH_PANDOC,
    "ebx",
    MappingProxyType({0: StartInfoV0, 1: StartInfoV1}),
)

SpecName = Literal["draft-a", "v0", "v1"]  # the names of the revisions below
REVISIONS = MappingProxyType({revision.name: revision for revision in (DRAFT_A, V0, V1)})
SHIPPED = frozenset({"v0", "v1"})
ONLY_V1 = frozenset({"v1"})
ONLY_DRAFT_A = frozenset({"draft-a"})
ALL = frozenset(REVISIONS)
