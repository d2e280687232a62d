"""Pretty-printers for start_info's structures in a kernel's debug information (xen/include/public/arch-x86/hvm/start_info.h)."""

from __future__ import annotations

import gdb
import gdb.printing

from pvhdbg.report.sizes import human
from pvhdbg.spec.start_info import MEMORY_TYPES, START_MAGIC, flag_names


class _OnOneLine:
    """A structure as `{field = value, …}`: addresses in hexadecimal, sizes with units, numbers with their names."""

    def __init__(self, value: gdb.Value) -> None:
        self._value = value

    def to_string(self) -> str:
        """Called by GDB."""
        names = [field.name for field in self._value.type.fields() if field.name]
        return "{" + ", ".join(f"{name} = {_shown(name, int(self._value[name]))}" for name in names) + "}"


def _shown(name: str, number: int) -> str:
    if name == "magic":
        return f"{number:#x} ({'good' if number == START_MAGIC else f'WRONG: not {START_MAGIC:#x}'})"
    if name == "flags":
        return " ".join([f"{number:#x}", *flag_names(number)])
    if name == "size":
        return f"{number:#x} ({human(number)})"
    if name == "type":
        return f"{number} ({MEMORY_TYPES.get(number, 'no known type')})"
    return str(number) if name in ("version", "nr_modules", "memmap_entries") else f"{number:#x}"


def register() -> None:
    """Register the printers in GDB; a second call replaces them."""
    printers = gdb.printing.RegexpCollectionPrettyPrinter("pvhdbg")
    for name in ("hvm_start_info", "hvm_modlist_entry", "hvm_memmap_table_entry"):
        printers.add_printer(name, f"^{name}$", _OnOneLine)
    gdb.printing.register_pretty_printer(None, printers, replace=True)
