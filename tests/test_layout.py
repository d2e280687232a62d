"""Structures against the C compiler: gcc's offsetof and sizeof are the oracle for what the declarations derive."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvhdbg.layout import Structure
from pvhdbg.spec.start_info import (
    DraftAStartInfo32,
    DraftAStartInfo64,
    MemoryMapEntry,
    ModuleEntry,
    StartInfoV0,
    StartInfoV1,
)
from tests.support.programs import need

SHIPPED_C = """
struct StartInfoV0 { uint32_t magic, version, flags, nr_modules; uint64_t modlist_paddr, cmdline_paddr, rsdp_paddr; };
struct StartInfoV1 { uint32_t magic, version, flags, nr_modules; uint64_t modlist_paddr, cmdline_paddr, rsdp_paddr,
    memmap_paddr; uint32_t memmap_entries, reserved; };
struct ModuleEntry { uint64_t paddr, size, cmdline_paddr, reserved; };
struct MemoryMapEntry { uint64_t addr, size; uint32_t type, reserved; };
"""
DRAFT_A_C = """
struct %s { char magic[32]; union { struct { ULONG console; uint32_t console_detail; } domU;
    struct { uint32_t info_off, info_size; } dom0; } u; ULONG mod_start, mod_len; signed char cmd_line[1024]; };
"""


def compiled(tmp_path: Path, declarations: str, structures: list[type[Structure]], renamed: dict[str, str]) -> list[int]:
    need("gcc")
    lines = []
    for structure in structures:
        lines.append(f'printf("%zu\\n", sizeof(struct {structure.__name__}));')
        for field in structure.fields():
            member = renamed.get(field.name, field.name)
            lines.append(f'printf("%zu\\n", offsetof(struct {structure.__name__}, {member}));')
    source = tmp_path / "layout.c"
    source.write_text(
        "#include <stddef.h>\n#include <stdint.h>\n#include <stdio.h>\n"
        f"{declarations}\nint main(void) {{ {' '.join(lines)} return 0; }}\n"
    )
    program = tmp_path / "layout"
    subprocess.run(["gcc", "-o", program, source], check=True)
    return [int(line) for line in subprocess.run([program], check=True, capture_output=True, text=True).stdout.split()]


def derived(structures: list[type[Structure]]) -> list[int]:
    numbers = []
    for structure in structures:
        numbers.append(structure.sizeof())
        numbers += [field.offset for field in structure.fields()]
    return numbers


def test_shipped_structures_are_laid_out_as_gcc_lays_them_out(tmp_path: Path) -> None:
    structures: list[type[Structure]] = [StartInfoV0, StartInfoV1, ModuleEntry, MemoryMapEntry]
    assert derived(structures) == compiled(tmp_path, SHIPPED_C, structures, {})


@pytest.mark.parametrize(("structure", "word"), [(DraftAStartInfo32, "uint32_t"), (DraftAStartInfo64, "uint64_t")])
def test_draft_a_structures_are_laid_out_as_gcc_lays_them_out(tmp_path: Path, structure: type[Structure], word: str) -> None:
    renamed = {"console": "u.domU.console", "console_detail": "u.domU.console_detail"}
    declarations = f"#define ULONG {word}\n" + DRAFT_A_C % structure.__name__
    assert derived([structure]) == compiled(tmp_path, declarations, [structure], renamed)


@given(st.binary(min_size=56, max_size=80))
def test_what_decodes_encodes_to_the_same_bytes(data: bytes) -> None:
    assert StartInfoV1.decode(data).encode() == data[:56]
    assert ModuleEntry.decode(data, 8).encode() == data[8:40]


@given(st.binary(max_size=39), st.integers(0, 60))
def test_too_few_bytes_are_a_value_error(data: bytes, offset: int) -> None:
    with pytest.raises(ValueError, match="needs 40 bytes"):
        StartInfoV0.decode(data, offset)


def test_a_structure_is_an_immutable_value() -> None:
    one, same = ModuleEntry(1, 2, cmdline_paddr=3, reserved=4), ModuleEntry(reserved=4, cmdline_paddr=3, size=2, paddr=1)
    assert one == same
    assert hash(one) == hash(same)
    assert repr(one) == repr(same) == "ModuleEntry(paddr=1, size=2, cmdline_paddr=3, reserved=4)"
    assert one != one.replace(size=5) == ModuleEntry(1, 5, 3, 4)
    assert one != (1, 2, 3, 4)
    with pytest.raises(AttributeError, match="immutable"):
        one.size = 5  # type: ignore[misc]
    with pytest.raises(TypeError, match="each once"):
        one.replace(sise=5)
    for values, named in (((1, 2, 3), {}), ((1, 2, 3, 4, 5), {}), ((1, 2, 3, 4), {"size": 2}), ((1, 2, 3), {"size": 2})):
        with pytest.raises(TypeError, match="each once"):
            ModuleEntry(*values, **named)
