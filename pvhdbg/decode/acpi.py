"""The ACPI root: RSDP, RSDT and XSDT, the tables that a boot loader hands over (ACPI 6.2, 5.2.5 to 5.2.8)."""

from __future__ import annotations

from pvhdbg.layout import Structure, raw, u8, u32
from pvhdbg.record import NamedTuple

RSDP_SIGNATURE = b"RSD PTR "
RSDP_V1_SIZE = 20
TABLE_LIMIT = 1 << 16  # bytes: 64 KiB list 8 000 tables; anything longer is not a root table


class RsdpV1(Structure):
    """Root System Description Pointer, ACPI 1.0: 20 bytes."""

    signature: bytes = raw(8, '"RSD PTR "')
    checksum: int = u8("makes the first 20 bytes sum to zero")
    oem_id: bytes = raw(6, "OEM")
    revision: int = u8("0 for ACPI 1.0, 2 for ACPI 2.0 and later")
    rsdt_address: int = u32("physical address of the RSDT")


class RsdpV2(Structure):
    """The part that ACPI 2.0 appends at byte 20: 16 bytes."""

    length: int = u32("length of the whole structure")
    xsdt_low: int = u32("physical address of the XSDT, low half")
    xsdt_high: int = u32("physical address of the XSDT, high half")
    extended_checksum: int = u8("makes the whole structure sum to zero")
    reserved: bytes = raw(3, "reserved")


class TableHeader(Structure):
    """System description table header: 36 bytes."""

    signature: bytes = raw(4, "four letters")
    length: int = u32("length of the table in bytes, header included")
    revision: int = u8("revision")
    checksum: int = u8("makes the table sum to zero")
    oem_id: bytes = raw(6, "OEM")
    oem_table_id: bytes = raw(8, "OEM's table")
    oem_revision: int = u32("OEM's revision")
    creator_id: bytes = raw(4, "creator")
    creator_revision: int = u32("creator's revision")


def checksum_ok(data: bytes) -> bool:
    """Whether the bytes sum to zero modulo 256."""
    return sum(data) & 0xFF == 0


class Rsdp(NamedTuple):
    """The RSDP at a physical address. `length` is 20 for ACPI 1.0; `tail` is None for ACPI 1.0, or if it cannot be read."""

    address: int
    head: RsdpV1
    tail: RsdpV2 | None
    data: bytes

    @property
    def revision(self) -> int:
        return self.head.revision

    @property
    def length(self) -> int:
        return RSDP_V1_SIZE if self.tail is None else self.tail.length

    @property
    def xsdt_address(self) -> int:
        return 0 if self.tail is None else self.tail.xsdt_high << 32 | self.tail.xsdt_low


class RootTable(NamedTuple):
    """An RSDT or XSDT: its header, the checksum of the bytes that could be read, and the tables that it lists."""

    expected: bytes  # the signature that the table must have
    address: int
    header: TableHeader | None
    sound: bool  # signature, length and checksum hold
    problem: str  # what does not hold; empty when sound
    entries: tuple[int, ...] = ()
