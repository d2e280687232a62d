"""Kernel files with damaged bytes: everything that `pvhdbg elf` does ends in a report or in one BadInput, soon and small."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pvhdbg.report.kernel_json as kernel_json
from pvhdbg.commands.kernel import ElfOptions, file_report
from pvhdbg.errors import BadInput
from pvhdbg.kernel.image import open_kernel
from pvhdbg.report import kernel_text, sarif
from tests.support.cli_runner import ROOT
from tests.support.elf_writer import NoteSpec, SymbolSpec, build_elf
from tests.support.schemas import validator
from tests.support.sorting import examples

GUESTS = sorted((ROOT / "pvhdbg/guests").glob("*.elf"))
WRITTEN = [
    build_elf(),
    build_elf(bits=32, machine=3, multiboot=True),
    build_elf(align=8, notes=((NoteSpec(5, b"GNU\0", bytes(16)), NoteSpec()), (NoteSpec(19, desc=bytes(12)),))),
    build_elf(notes=(), section_notes=(NoteSpec(),), symbols=tuple(SymbolSpec(f"name{i}", 0x100000 + i) for i in range(40))),
]
REAL = [path.read_bytes() for path in GUESTS] + WRITTEN

_EXTREME = st.sampled_from([0, 1, 0x7F, 0x80, 0xFF])
_MUTATIONS = st.lists(
    st.tuples(st.integers(0, 1 << 16), st.sampled_from([1, 2, 4, 8]), st.one_of(_EXTREME, st.integers(0, 255))),
    min_size=1,
    max_size=12,
)


def looked_into(data: bytes, path: Path) -> None:
    """All that `elf` shows of the file in all its formats."""
    path.write_bytes(data)
    with open_kernel(str(path)) as image:
        report = file_report(image, ElfOptions())
        for name in image.symbols().names()[:4]:
            image.symbols().physical_address(name)
    validator("elf").validate(kernel_json.document(report))
    text = kernel_text.render(report)
    assert all(letter.isprintable() or letter == "\n" for letter in text)
    json.dumps(sarif.document(report.verdicts))


@settings(max_examples=examples(400), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_files(data: st.DataObject, tmp_path: Path) -> None:
    image = bytearray(data.draw(st.sampled_from(REAL)))
    # The first bytes control most of a reader's work: half of the changes go there.
    for at, size, value in data.draw(_MUTATIONS):
        at = at % (len(image) if at & 1 else min(len(image), 400))
        image[at : at + size] = bytes([value]) * min(size, len(image) - at)
    image = image[: data.draw(st.integers(0, len(image)))] if data.draw(st.booleans()) else image
    since = time.process_time()
    try:
        looked_into(bytes(image), tmp_path / "k")
    except BadInput as error:
        assert "\n" not in error.what  # noqa: PT017 - either ending is right
        assert error.todo  # noqa: PT017
    assert time.process_time() - since < 5


def test_a_table_of_one_letter_names_is_searched_once(tmp_path: Path) -> None:
    """40 000 symbols whose names end alike: a question costs one pass, not one for each of them."""
    path = tmp_path / "k"
    path.write_bytes(build_elf(symbols=tuple(SymbolSpec("e", 0x100000 + i) for i in range(40_000))))
    since = time.process_time()
    with open_kernel(str(path)) as image:
        symbols = image.symbols()
        assert symbols.physical_address("e") == 0x100000
        assert symbols.nearest(0x100000 + 32) == ("e", 0)
        with pytest.raises(BadInput):
            symbols.physical_address("q")
        with pytest.raises(BadInput):
            symbols.physical_address("ee")
    assert time.process_time() - since < 5


def peak(path: Path, *words: str) -> int:
    """Peak memory of `pvhdbg elf` on the file, in bytes."""
    script = (
        "import resource, sys; from pvhdbg.cli.program import main\n"
        "try: main(['elf', *sys.argv[1:]])\n"
        "except SystemExit: pass\n"
        "sys.stderr.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path), *words], capture_output=True, text=True, cwd=ROOT, check=False, timeout=60
    )
    return int(done.stderr.split()[-1]) * 1024


def test_memory_stays_below_64_mb_beyond_the_interpreter(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(build_elf())
    hostile = build_elf(notes=((NoteSpec(), *(NoteSpec(1, desc=b"\xff" * 200) for _ in range(4000))),))
    with open(tmp_path / "big", "wb") as file:
        file.write(hostile)
        file.truncate(1 << 30)  # a sparse file of 1 GiB
    assert peak(tmp_path / "big") - peak(tmp_path / "small") < 64 << 20


@pytest.mark.slow
def test_a_walk_through_a_file_full_of_holes_ends(tmp_path: Path) -> None:
    """QEMU looks for its note behind the segment too, as far as the file goes."""
    with open(tmp_path / "holes", "wb") as file:
        file.write(build_elf(notes=((NoteSpec(1),),)))
        file.truncate(5 << 30)
    since = time.process_time()
    with open_kernel(str(tmp_path / "holes")) as image:
        assert file_report(image, ElfOptions()).exit_code == 1
    assert time.process_time() - since < 10
