"""What a hypervisor's guest has, by nested page tables that the tests lay out; Xen's own are read in tests/vmm/test_xen.py."""

from pvhdbg.decode.nested_memory import NOT_MAPPED, backing
from pvhdbg.decode.page_map import PageMap, page_map
from pvhdbg.errors import MemoryUnreadable
from pvhdbg.model import Backing, BackingKind, Registers

RAM, ROM, UNKNOWN = BackingKind.RAM, BackingKind.ROM, BackingKind.UNKNOWN
MACHINE = (Backing(0x100000, 0x300000, RAM, "pc.ram"), Backing(0xFFF00000, 0x100000, ROM, "pc.bios"))
TABLES = Registers({"cr0": 0x80000001, "cr3": 0x1000, "cr4": 0x20, "efer": 0xD00})
ALL, READ_ONLY, NOT_THE_GUESTS = 7, 5, 3  # present with writable and user, without the one, without the other


def tables(*leaves: int) -> PageMap:
    """Nested page tables whose last one has these entries, one for each page from 0 on."""
    entries = {0x1000: 0x2007, 0x2000: 0x3007, 0x3000: 0x4007} | {0x4000 + 8 * at: leaf for at, leaf in enumerate(leaves)}

    def read(address: int, size: int) -> bytes:
        if not 0x1000 <= address < 0x5000:
            raise MemoryUnreadable(address, size)
        return b"".join(entries.get(at, 0).to_bytes(8, "little") for at in range(address, address + size, 8))

    return page_map(TABLES, read, contiguous=True)


def test_ram_is_what_the_guest_may_write_and_what_is_ram_below() -> None:
    found = backing(tables(0x100000 | ALL, 0x3FF000 | ALL, 0xFFF00000 | ALL), MACHINE)
    assert found[:-1] == (Backing(0, 0x2000, RAM, "pc.ram"), Backing(0x2000, 0x1000, ROM, "pc.bios"))
    assert found[-1] == Backing(0x3000, (1 << 64) - 0x3000, UNKNOWN, NOT_MAPPED)


def test_what_the_tables_do_not_prove_is_unknown_with_the_reason() -> None:
    found = backing(tables(0x100000 | READ_ONLY, 0, 0x102000 | NOT_THE_GUESTS, 0x103000 | ALL), MACHINE)
    assert [(one.start, one.kind) for one in found] == [(0, UNKNOWN), (0x1000, UNKNOWN), (0x3000, RAM), (0x4000, UNKNOWN)]
    assert "RAM or ROM" in found[0].name
    assert found[1].name == found[3].name == NOT_MAPPED


def test_a_page_without_anything_below_is_no_memory() -> None:
    assert [(one.start, one.kind) for one in backing(tables(0x100000 | ALL, 0x800000 | ALL, 0x101000 | ALL), MACHINE)] == [
        (0, RAM), (0x2000, RAM), (0x3000, UNKNOWN),
    ]  # fmt: skip


def test_without_a_monitor_or_a_table_nothing_is_known() -> None:
    assert "the machine below" in backing(tables(0x100000 | ALL), ())[0].name
    unread = page_map(TABLES.replace(cr3=0x900000), tables_of_nothing, contiguous=True)
    assert [(one.kind, "could not be read" in one.name) for one in backing(unread, MACHINE)] == [(UNKNOWN, True)]
    cut = page_map(
        TABLES, lambda _, size: (0x1007).to_bytes(8, "little") * (size // 8), 8, contiguous=True
    )  # they lead to each other
    assert cut.cut
    assert all(one.kind is UNKNOWN or one.kind is RAM for one in backing(cut, MACHINE))


def tables_of_nothing(address: int, size: int) -> bytes:
    raise MemoryUnreadable(address, size)
