"""Which boot protocol a machine was entered by. Memory decides first, then registers."""

from __future__ import annotations

from pvhdbg.decode.cpu_mode import long_mode_active, paging_on, protected
from pvhdbg.decode.paging import physical_address
from pvhdbg.model import MemoryView, Registers, Unavailable
from pvhdbg.spec.protocols import SIGNATURES, Plausible, Signature, Words
from pvhdbg.spec.start_info import START_MAGIC


def is_pvh(registers: Registers, memory: MemoryView) -> bool:
    """Whether [ebx] holds the shipped ABI's magic; False if it cannot be read. Raises NeedMemory."""
    try:
        return int.from_bytes(memory.read(registers["ebx"], 4), "little") == START_MAGIC
    except Unavailable:
        return False


def recognise(registers: Registers, memory: MemoryView) -> Signature | None:
    """The other protocol whose whole signature matches, or None. Raises NeedMemory for memory that it needs."""
    for signature in SIGNATURES:
        if fits(signature, registers):
            try:
                if all(_memory_matches(probe, registers, memory) for probe in signature.memory):
                    return signature
            except Unavailable:
                continue
    return None


def fits(signature: Signature, registers: Registers) -> bool:
    """Whether the registers match a signature, whatever memory holds."""
    return _mode_matches(signature, registers) and all(
        registers.get(name) in values for name, values in signature.registers.items()
    )


def _mode_matches(signature: Signature, registers: Registers) -> bool:
    wanted = (
        (signature.protected, protected(registers)),
        (signature.paging, paging_on(registers)),
        (signature.long_mode, long_mode_active(registers)),
    )
    # Without control registers, which some stubs do not show, the mode is not known: memory alone decides.
    return all(want is None or value is None or value == want for want, value in wanted)


def _memory_matches(probe: Words | Plausible, registers: Registers, memory: MemoryView) -> bool:
    base = registers[probe.register]
    if isinstance(probe, Words):
        # Without cr3 the address is used as a physical one: low memory is mostly identity-mapped.
        if probe.virtual and registers.get("cr3") is not None:
            base = physical_address(base, registers, memory)
        address = (base * 16 if probe.segment else base) + probe.offset
        return memory.read(address, len(probe.expected)) == probe.expected
    word = int.from_bytes(memory.read(base + probe.offset, 4), "little")
    return word & probe.mask == probe.value and (word != 0 or not probe.nonzero)
