"""drcov version 2, as Lighthouse loads it: modules, and the instructions in them that were executed.

The format is DynamoRIO's (drcov, module table version 2). Lighthouse looks for the module with the name of the file in the
disassembler, and counts its offsets from that file's lowest address. So the kernel is one module at its link-time addresses. The
first instructions of a boot, which run at physical addresses, are counted at their link-time addresses too.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Mapping

from pvhdbg.errors import BadInput
from pvhdbg.tracing.event import Event
from pvhdbg.tracing.symbol_text import Name, label
from pvhdbg.tracing.trace_file import Head, Load, Record

_REACH = 1 << 32  # an offset has 32 bits
_NEAR = 1 << 24  # bytes; code further away from a module begins another
_MODULES_BOUND = 1 << 16  # a block names its module in 16 bits
_SIZE_BOUND = (1 << 16) - 1
_NO_NAME = re.compile(r"[,\\]")  # a comma ends a column, and a backslash separates folders on Windows

_Module = tuple[int, int, str]  # first address, the address after the last one, name


def drcov(records: Iterable[Record], _: Name) -> Iterator[bytes]:
    """Modules, then each instruction that was executed as a block of its own. Raises BadInput."""
    head = Head("?", "?")
    sizes: dict[int, int] = {}
    for record in records:
        if isinstance(record, Head):
            head = record
        elif isinstance(record, Event) and record.pc not in sizes:
            sizes[record.pc] = min(max(len(record.code), 1), _SIZE_BOUND)
    if not sizes:
        raise BadInput("the trace has no instructions", "trace with --what pc or state")
    yield from of_blocks(head, sizes)


def of_blocks(head: Head, sizes: Mapping[int, int]) -> Iterator[bytes]:
    """The file of blocks by address, each with its size in bytes. Raises BadInput."""
    blocks = {_linked(pc, head.loads): min(size, _SIZE_BOUND) for pc, size in sizes.items()}
    pcs = sorted(blocks)
    modules, owners = _modules(pcs, _kernel(head))
    if len(modules) > _MODULES_BOUND:
        raise BadInput(
            f"the code lies in {len(modules):,} separate stretches, and drcov has 16 bits for them", "export less of the trace"
        )
    yield b"DRCOV VERSION: 2\nDRCOV FLAVOR: drcov\n"
    yield f"Module Table: version 2, count {len(modules)}\nColumns: id, base, end, entry, path\n".encode()
    for number, (start, end, name) in enumerate(modules):
        yield f"{number}, {start:#x}, {end:#x}, 0x0, {name}\n".encode()
    yield f"BB Table: {len(blocks)} bbs\n".encode()
    for pc, number in zip(pcs, owners, strict=True):
        yield struct.pack("<IHH", pc - modules[number][0], blocks[pc], number)


def _linked(pc: int, loads: tuple[Load, ...]) -> int:
    """The link-time address of the kernel's code, which may run at its physical address; other addresses stay."""
    code = [one for one in loads if one.execute]
    if any(one.virtual <= pc < one.virtual + one.size for one in code):
        return pc
    return next((pc - one.physical + one.virtual for one in code if one.physical <= pc < one.physical + one.size), pc)


def _kernel(head: Head) -> list[_Module]:
    """The kernel's file: one module, or more where its code is linked further apart than an offset reaches."""
    name = _NO_NAME.sub("_", label((head.kernel or "").rpartition("/")[2])).strip() or "kernel"
    stretches: list[list[Load]] = []
    for load in sorted((one for one in head.loads if 0 < one.size <= _REACH), key=lambda one: one.virtual):
        if stretches and load.virtual + load.size - stretches[-1][0].virtual <= _REACH:
            stretches[-1].append(load)
        else:
            stretches.append([load])
    code = [loads for loads in stretches if any(one.execute for one in loads)]
    ranges = [(loads[0].virtual, max(one.virtual + one.size for one in loads)) for loads in code]
    return [(start, end, name if number == 0 else f"{name}-{start:x}") for number, (start, end) in enumerate(ranges)]


def _modules(pcs: list[int], kernel: list[_Module]) -> tuple[list[_Module], list[int]]:
    """All modules, and for each pc the number of its module. Code outside of the kernel lies in modules of its own."""
    modules = list(kernel)
    owners: list[int] = []
    for pc in pcs:
        number = next((index for index, (start, end, _) in enumerate(kernel) if start <= pc < end), len(modules) - 1)
        start, end, name = modules[number] if modules else (0, 0, "")
        if not start <= pc < end:
            page, behind = pc & ~0xFFF, (pc | 0xFFF) + 1
            if number >= len(kernel) and pc - end < _NEAR and behind - start <= _REACH:
                modules[number] = start, behind, name
            else:
                number = len(modules)
                modules.append((page, behind, f"outside-{page:x}"))
        owners.append(number)
    return modules, owners
