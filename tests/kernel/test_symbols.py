"""Symbols of a guest that the project ships, and of one that gcc builds: pyelftools is the oracle."""

import subprocess
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from pvhdbg import guests
from pvhdbg.errors import BadInput
from pvhdbg.kernel.image import open_kernel
from tests.support.elf_writer import build_elf
from tests.support.programs import need

SOURCE = """
static int local_one(int x) { return x + 1; }
int global_two(int x) { return local_one(x) * 2; }
int data_three = 3, three = 3; /* linkers let a name share another's tail */
int _start(void) { return global_two(data_three); }
"""


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ELF64 whose virtual addresses are not its physical ones, as a kernel's are."""
    need("gcc")
    folder = tmp_path_factory.mktemp("symbols")
    (folder / "a.c").write_text(SOURCE)
    (folder / "a.ld").write_text(
        "PHDRS { all PT_LOAD; }\nSECTIONS { . = 0xffffffff81000000;\n"
        ".text : AT(0x1000000) { *(.text*) } :all .data : { *(.data*) *(.rodata*) } :all /DISCARD/ : { *(*) } }\n"
    )
    command = ["gcc", "-O0", "-fno-pie", "-no-pie", "-nostdlib", "-static", "-mcmodel=kernel", "-Wl,-T,a.ld", "-o", "a", "a.c"]
    subprocess.run(command, cwd=folder, check=True)
    return folder / "a"


def oracle(path: Path) -> dict[str, int]:
    with open(path, "rb") as file:
        table = ELFFile(file).get_section_by_name(".symtab")
        assert isinstance(table, SymbolTableSection)
        return {
            symbol.name: symbol["st_value"]
            for symbol in table.iter_symbols()
            if symbol.name
            and symbol["st_info"]["type"] in ("STT_FUNC", "STT_OBJECT", "STT_NOTYPE")
            and symbol["st_shndx"] != "SHN_UNDEF"
        }


def test_every_symbol_is_found_by_name_and_by_address(linked: Path) -> None:
    with open_kernel(str(linked)) as image:
        symbols = image.symbols()
        wanted = oracle(linked)
        assert {"local_one", "global_two", "data_three", "_start"} <= set(wanted)
        for name, value in wanted.items():
            physical = value - 0xFFFFFFFF81000000 + 0x1000000
            assert symbols.virtual_address(name) == value
            assert symbols.physical_address(name) == physical
            found = symbols.name_at(physical)
            assert found is not None
            assert wanted[found] == value
            nearest = symbols.nearest(physical + 1)
            assert nearest is not None
            assert wanted[nearest[0]] + nearest[1] == value + 1


@pytest.mark.parametrize("prefix", ["", "t", "th", "three", "three_", "g", "global_two", "_", "é", "\udc80"])
def test_names_that_begin_so(linked: Path, prefix: str) -> None:
    with open_kernel(str(linked)) as image:
        wanted = {name for name in oracle(linked) if name.startswith(prefix)}
        assert set(image.symbols().names(prefix)) == wanted
        assert image.symbols().first(prefix, 2) == sorted(wanted)[:2]


def test_the_sample_guests_entry_has_a_name() -> None:
    path = guests.path("hello")
    with open_kernel(str(path)) as image:
        entry = image.kernel().entry
        assert entry is not None
        assert image.symbols().name_at(entry) == "pvh_start"
        assert image.symbols().physical_address("pvh_start") == entry


def test_an_unknown_name_is_answered_with_the_nearest(linked: Path) -> None:
    with open_kernel(str(linked)) as image, pytest.raises(BadInput) as error:
        image.symbols().physical_address("global_tow")
    assert "global_two" in error.value.todo


SIZED = """
.text
.globl _stext, head, __text_end, next, plain_end
_stext:
head: .skip 32
inner: .skip 32
.size head, 64
.skip 16
__text_end:
next: .skip 16
.size next, 16
plain_end: .skip 16
"""


def test_a_function_or_a_label_inside_it_names_an_address(tmp_path: Path) -> None:
    """A mark of the linker has no size: _stext+0x41 says less than the function at the same place. A label inside a function says more."""
    need("gcc")
    (tmp_path / "a.S").write_text(SIZED)
    subprocess.run(["gcc", "-nostdlib", "-static", "-Wl,-e,head,-Ttext=0x100000", "-o", "a", "a.S"], cwd=tmp_path, check=True)
    with open_kernel(str(tmp_path / "a")) as image:
        symbols = image.symbols()
        start = symbols.physical_address("head")
        expected = {0: "head", 1: "head+0x1", 32: "inner", 33: "inner+0x1", 63: "inner+0x1f", 65: "inner+0x21", 80: "next", 95: "next+0xf",
                    96: "plain_end", 97: "plain_end+0x1"}  # fmt: skip
        assert {offset: symbols.label(start + offset) for offset in expected} == expected
        near = [symbols.nearest(start + offset) for offset in (0, 80)]
        assert near == [("head", 0), ("next", 0)]


def test_a_stripped_kernel_says_so(tmp_path: Path) -> None:
    path = tmp_path / "k"
    path.write_bytes(build_elf())
    with open_kernel(str(path)) as image:
        assert not image.symbols()
        assert image.symbols().origin is None
        assert image.symbols().name_at(0x100000) is None
        with pytest.raises(BadInput, match="no symbol table"):
            image.symbols().physical_address("start_kernel")


def test_a_stripped_linux_has_its_own_names(vmlinux: Path) -> None:
    """The file's notes say where two of them are, by link-time and by physical address."""
    with open_kernel(str(vmlinux)) as image:
        symbols, entry = image.symbols(), image.kernel().entry
        assert symbols.origin == "kallsyms"
        assert entry is not None
        assert symbols.name_at(entry) == "pvh_start_xen"
        assert symbols.nearest(entry + 3) == ("pvh_start_xen", 3)
        (pv_entry,) = [int.from_bytes(note.desc, "little") for note in image.elf.notes if note.is_xen and note.type == 1]
        assert symbols.virtual_address("startup_xen") == pv_entry
        start = symbols.physical_address("startup_64")
        assert start == image.elf.header.e_entry  # `_stext`, a mark of the linker's, is at the same place in some kernels
        assert symbols.label(start + 0x41) == "startup_64+0x41"  # by the function, not by that mark
        assert symbols.label(symbols.physical_address("rest_init") + 1) == "rest_init+0x1"
        assert {"start_kernel", "rest_init", "secondary_startup_64", "x86_64_start_kernel"} <= set(symbols.names())
        with pytest.raises(BadInput) as error:
            symbols.physical_address("start_kernal")
        assert "start_kernel" in error.value.todo
