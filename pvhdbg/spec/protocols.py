"""The state of a machine at the entry of each other boot protocol.

A signature matches only when all of it holds, memory included. `eax` alone proves nothing: qboot jumps to a PVH
entry with multiboot's magic number in it. The shipped PVH ABI is recognised first, by the magic at [ebx].
"""

from __future__ import annotations

from types import MappingProxyType

from pvhdbg.record import NamedTuple, dataclass, field
from pvhdbg.spec.documents import DRAFT_A_MAIL, LINUX_BOOT, MULTIBOOT, MULTIBOOT2, XEN_H, Clause
from pvhdbg.spec.start_info import DRAFT_A_ALTERNATIVES, DRAFT_A_EAX, DRAFT_A_MAGIC_PREFIX


class Words(NamedTuple):
    """Memory at `[register + offset]` begins with these bytes.

    With `segment`, the address is segment * 16 + offset; with `virtual`, the page tables translate the register.
    """

    register: str
    offset: int
    expected: bytes
    segment: bool = False
    virtual: bool = False


class Plausible(NamedTuple):
    """The 32-bit word at `[register + offset]`, masked, equals `value`; with `nonzero`, it must not be zero."""

    register: str
    offset: int
    mask: int
    value: int = 0
    nonzero: bool = False


@dataclass(frozen=True)
class Signature:
    """What must hold for a machine to be at another protocol's entry. None means "does not matter"."""

    key: str
    title: str
    rule: str | None  # the INFO rule that names it
    clause: Clause
    protected: bool | None = None  # CR0.PE
    paging: bool | None = None  # CR0.PG
    long_mode: bool | None = None  # EFER.LMA
    registers: MappingProxyType[str, frozenset[int]] = field(default_factory=lambda: MappingProxyType({}))
    memory: tuple[Words | Plausible, ...] = ()
    advice: str = ""


def _registers(**values: int | frozenset[int]) -> MappingProxyType[str, frozenset[int]]:
    return MappingProxyType({k: v if isinstance(v, frozenset) else frozenset({v}) for k, v in values.items()})


_HDRS = b"HdrS"

MULTIBOOT1 = Signature(
    "multiboot1",
    "multiboot 1",
    "PVH-ALT-MB1",
    Clause(MULTIBOOT, "EAX must contain the magic value 0x2BADB002", "3.2 Machine state"),
    protected=True,
    paging=False,
    registers=_registers(eax=0x2BADB002),
    memory=(Plausible("ebx", 0, mask=0xFFFFE000),),  # flags: bits 0-12 are defined
    advice="QEMU takes a multiboot 1 header in the first 8 KiB before it looks for a PVH note: where the file has that note, remove "
    "the header for a PVH boot, or boot the file under another VMM",
)
MULTIBOOT_2 = Signature(
    "multiboot2",
    "multiboot 2",
    "PVH-ALT-MB2",
    Clause(MULTIBOOT2, "EAX must contain the magic value 0x36d76289", "3.2 Machine state"),
    protected=True,
    paging=False,
    registers=_registers(eax=0x36D76289),
    memory=(Plausible("ebx", 0, mask=0xFF000007, nonzero=True), Plausible("ebx", 4, mask=0xFFFFFFFF)),
    advice="the loader chose the multiboot 2 header; only a loader that knows PVH uses the note",
)
LINUX16 = Signature(
    "linux16",
    "Linux 16-bit boot protocol",
    None,
    Clause(LINUX_BOOT, "the kernel's 16-bit setup code is entered at SETUP_SEG + 0x20", "Running the kernel"),
    protected=False,
    memory=(Words("ds", 0x202, _HDRS, segment=True),),
    advice="a bzImage was booted through its setup code; give the VMM the ELF inside it (pvhdbg extract)",
)
LINUX32 = Signature(
    "linux32",
    "Linux 32-bit boot protocol",
    "PVH-ALT-LINUX32",
    Clause(LINUX_BOOT, "%esi must hold the base address of the struct boot_params; %ebp, %edi and %ebx must be zero",
           "32-bit boot protocol"),
    protected=True,
    paging=False,
    registers=_registers(ebp=0, edi=0, ebx=0),
    memory=(Words("esi", 0x202, _HDRS),),
    advice="the loader took the file for a Linux kernel; it found no usable PVH note, or prefers this protocol",
)  # fmt: skip
LINUX64 = Signature(
    "linux64",
    "Linux 64-bit boot protocol",
    "PVH-ALT-LINUX64",
    Clause(LINUX_BOOT, "%rsi must hold the base address of the struct boot_params", "64-bit boot protocol"),
    protected=True,
    paging=True,
    long_mode=True,
    memory=(Words("rsi", 0x202, _HDRS),),
    advice="the VMM found no PVH note that it understands, or prefers this protocol (Firecracker does so without a message)",
)
XEN_PV = Signature(
    "xen-pv",
    "Xen PV",
    "PVH-ALT-PV",
    Clause(XEN_H, 'char magic[32]; /* "xen-<version>-<platform>" */', "struct start_info"),
    protected=True,
    paging=True,
    memory=(Words("rsi", 0, b"xen-", virtual=True),),  # a builder puts it behind the kernel, at the kernel's own addresses
    advice='the domain was built as a PV guest (or PVHv1 of Xen 4.4 to 4.9): ask for type="pvh"',
)
DRAFT_A_SIGNATURE = Signature(
    "draft-a",
    "Draft A of the PVH boot ABI (2015)",
    "PVH-ALT-DRAFTA",
    Clause(DRAFT_A_MAIL, "eax: contains the magic value 0xFF6BC1E2"),
    protected=True,
    registers=_registers(eax=frozenset({DRAFT_A_EAX, *DRAFT_A_ALTERNATIVES})),
    memory=(Words("esi", 0, DRAFT_A_MAGIC_PREFIX),),
    advice="this loader follows the draft of 2015; judge it as such with --spec draft-a",
)

# In the order in which they are tried: the protocols that memory proves most strongly come first. Draft A comes before Xen PV,
# whose structure begins with the same letters: with the draft's number in eax, paging left on is a defect of a Draft A hand-off.
SIGNATURES = (LINUX64, LINUX32, LINUX16, DRAFT_A_SIGNATURE, XEN_PV, MULTIBOOT1, MULTIBOOT_2)
