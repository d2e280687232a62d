"""What is shown of a recorded boot: chapters, tree, profile, coverage, time line. One boot of Debian's kernel with a program of its own."""

import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from lxml import etree

from pvhdbg import guests
from tests.support import debugged, trace_readers
from tests.support.cli_runner import ROOT, Cli, scratch

pytestmark = [pytest.mark.boot, pytest.mark.usefixtures("qemu")]

PROGRAM = ".globl _start\n_start: mov $39, %eax\nsyscall\nmov $60, %eax\nxor %edi, %edi\nsyscall\n"
CHAPTERS = ["firmware", "option ROM", "entry", "long mode", "start_kernel", "initcalls", "userland"]
EXIT = ("--", *debugged.EXIT_DEVICE)


def newc(name: str, data: bytes, mode: int) -> bytes:
    """One file of a cpio archive (Linux Documentation/driver-api/early-userspace/buffer-format.rst)."""
    fields = (1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08x" % value for value in fields) + name.encode() + b"\0"
    return head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)


@pytest.fixture(scope="module")
def recorded(vmlinux: Path) -> Iterator[Path]:
    """Linux to its first program, which ends."""
    with scratch() as folder:
        (folder / "init.S").write_text(PROGRAM)
        subprocess.run(["gcc", "-nostdlib", "-static", "-o", "init", "init.S"], cwd=folder, check=True)
        archive = newc("init", (folder / "init").read_bytes(), 0o100755) + newc("TRAILER!!!", b"", 0)
        (folder / "initrd").write_bytes(archive)
        cli = Cli(folder)
        words = ("--append", "console=ttyS0 panic=-1 cryptomgr.notests", "--initrd", folder / "initrd")
        text = cli("boot", vmlinux, *words, "-o", folder / "boot").ok().out
        assert text.startswith("about ")
        yield folder / "boot"


def rows(text: str) -> list[tuple[int, str]]:
    """Number and words of each line that begins with a number."""
    found = (re.match(r"\s*(-?[\d,]+)  (.*)", line) for line in text.splitlines())
    return [(int(one[1].replace(",", "")), one[2]) for one in found if one]


def test_the_chapters_and_the_functions_in_them(cli: Cli, recorded: Path) -> None:
    text = cli("boot", "show", recorded, "--most", "100000").ok().out
    lines = rows(text)
    assert "record with --exact" in text
    assert [re.sub(r"— (.*): .*", r"\1", words) for _, words in lines if words.startswith("— ")] == CHAPTERS
    numbers = [number for number, _ in lines]
    assert numbers == sorted(numbers)
    names = [words for _, words in lines if not words.startswith("— ")]
    assert len(names) == len(set(names)) > 5000
    order = [names.index(name) for name in ("pvh_start_xen", "start_kernel", "rest_init", "kernel_init", "run_init_process")]
    assert order == sorted(order)
    some = rows(
        cli("boot", "show", recorded, "--from", "start_kernel", "--to", "rest_init", "--grep", "^(start_kernel|rest_init)$")
        .ok()
        .out
    )
    assert [words for _, words in some if not words.startswith("— ")] == ["start_kernel", "rest_init"]
    cli("boot", "show", recorded, "--from", "nosuch").complaint(2, "neither a number nor a function of this boot")


def test_a_kernel_with_the_same_build_id_gives_the_names(cli: Cli, recorded: Path, vmlinux: Path) -> None:
    """A copy that is not the same file, as one with debug info would be; another kernel is refused."""
    copy = cli.folder / "copy"
    copy.write_bytes(vmlinux.read_bytes() + b"\0")
    assert "start_kernel" in cli("boot", "show", recorded, "--kernel", copy, "--grep", "^start_kernel$").ok().out
    cli("boot", "show", recorded, "--kernel", guests.path("hello")).complaint(2, "is not the kernel that")


def test_the_tree_of_who_reached_whom(cli: Cli, recorded: Path) -> None:
    lines = [
        (len(words) - len(words.lstrip()), words.strip())
        for _, words in rows(cli("boot", "show", recorded, "--tree", "--most", "100000").ok().out)
    ]
    at = {words: index for index, (_, words) in enumerate(lines)}

    def parent(name: str) -> str | None:
        depth = lines[at[name]][0]
        return next((words for indent, words in reversed(lines[: at[name]]) if indent < depth), None)

    assert parent("x86_64_start_reservations") == "x86_64_start_kernel"
    assert parent("start_kernel") == "x86_64_start_reservations"
    # None where an interrupt came just before its first instruction; the first two run with interrupts off.
    assert parent("do_one_initcall") in ("kernel_init_freeable", "do_pre_smp_initcalls", None)


def test_the_profile_is_the_count_of_instructions(cli: Cli, recorded: Path, tmp_path: Path) -> None:
    text = cli("boot", "profile", recorded, "--most", "100000").ok().out
    chapters, _, functions = text.partition("\n\n")
    total = sum(int(line.split()[0].replace(",", "")) for line in chapters.splitlines()[1:])
    by_name = {line.split()[-1]: int(line.split()[0].replace(",", "")) for line in functions.splitlines()[1:-1]}
    assert abs(sum(by_name.values()) / total - 1) < 0.03
    folded, drawn = tmp_path / "folded", tmp_path / "flame.svg"
    cli("boot", "profile", recorded, "--as", "folded", "-o", folded).ok()
    spent: Counter[str] = Counter()
    for chain, count in trace_readers.folded(folded.read_bytes()).items():
        spent[chain[-1]] += count
    most = max(by_name, key=lambda name: by_name[name])
    assert spent[most] == by_name[most]
    assert "start_kernel;" in folded.read_text()
    cli("boot", "profile", recorded, "--as", "svg", "-o", drawn).ok()
    titles = [one.text for one in etree.parse(str(drawn)).iter("{http://www.w3.org/2000/svg}title")]
    assert any((one or "").startswith("start_kernel: ") for one in titles)
    cli("boot", "profile", recorded, "--as", "svg").complaint(2, "--as and -o belong together")


def test_the_profile_of_each_chapter(cli: Cli, recorded: Path, tmp_path: Path) -> None:
    """Of each chapter the sum over its functions is its length, and a flame graph has one frame for each."""
    document = json.loads(cli("boot", "profile", recorded, "--chapter", "all", "--most", "100000", "--format", "json").ok().out)
    lengths = {one["name"]: one["behind"] - one["first"] for one in document["chapters"]}
    sums = {one["name"]: sum(row["instructions"] for row in one["functions"]) for one in document["by_chapter"]}
    assert list(sums) == CHAPTERS
    assert [one["known"] for one in document["by_chapter"]] == [True] * len(CHAPTERS)
    assert sums == lengths  # both are sums over blocks
    by_name = {one["name"]: [row["name"] for row in one["functions"]] for one in document["by_chapter"]}
    assert "do_one_initcall" in by_name["initcalls"]
    assert "do_one_initcall" not in by_name["start_kernel"]
    assert by_name["long mode"].count("start_kernel") == 0 < by_name["start_kernel"].count("start_kernel")
    text = cli("boot", "profile", recorded, "--chapter", "long-mode", "--most", "1").ok().out
    assert f"— long mode: {lengths['long mode']:,} instructions\n" in text
    assert f"{by_name['long mode'][0]}\n… {len(by_name['long mode']) - 1} more functions" in text
    folded, drawn = tmp_path / "folded", tmp_path / "flame.svg"
    cli("boot", "profile", recorded, "--chapter", "all", "--as", "folded", "-o", folded).ok()
    spent: Counter[str] = Counter()
    for chain, count in trace_readers.folded(folded.read_bytes()).items():
        spent[chain[0].removeprefix("chapter_").replace("_", " ").replace("start kernel", "start_kernel")] += count
    assert spent == lengths
    cli("boot", "profile", recorded, "--chapter", "userland", "--as", "svg", "-o", drawn).ok()
    titles = [one.text or "" for one in etree.parse(str(drawn)).iter("{http://www.w3.org/2000/svg}title")]
    assert any(one.startswith("chapter userland: ") for one in titles)
    cli("boot", "profile", recorded, "--chapter", "nosuch").complaint(2, "its chapters are: firmware, option-ROM, entry")


def test_the_coverage_for_lighthouse(cli: Cli, recorded: Path, tmp_path: Path) -> None:
    file = tmp_path / "drcov"
    cli("boot", "coverage", recorded, "--as", "drcov", "-o", file).ok()
    _, blocks = trace_readers.drcov(file.read_bytes())["vmlinux"]
    assert len(blocks) > 30_000
    assert re.search(r"^[\d,]+ of [\d,]+ functions were executed$", cli("boot", "coverage", recorded).ok().out, re.MULTILINE)
    cli("boot", "coverage", recorded, "--as", "lcov", "-o", tmp_path / "lcov").complaint(2, "has no debug info")


def test_the_time_line(cli: Cli, recorded: Path, tmp_path: Path) -> None:
    cli("boot", "timeline", recorded, "-o", tmp_path / "boot.html").ok()
    data = json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', (tmp_path / "boot.html").read_text(), re.DOTALL)[1])  # type: ignore[index]
    assert [row[0] for row in data["chapters"]] == CHAPTERS
    assert [row[0] for row in data["modes"]] == ["protected", "compatibility", "long"]
    assert {"64-bit", "cr4.pae cr4 0x20"} <= {row[0] for row in data["milestones"]}
    cli("boot", "timeline", recorded, "--as", "perfetto", "-o", tmp_path / "boot.json").ok()
    drawn = trace_readers.chrome((tmp_path / "boot.json").read_bytes())
    assert [name for name, _, _ in drawn.slices["chapters"]] == CHAPTERS
    assert drawn.slices["chapters"][0][1] == 0
    assert "start_kernel" in [name for name, _, _ in drawn.instants]
    cli("boot", "timeline", recorded).complaint(2, "boot timeline has no file to write to")


def test_the_coverage_of_source_lines(cli: Cli, tmp_path: Path) -> None:
    """A guest with debug info: the lines of `print` were executed, those behind an `ud2` were not."""
    source = tmp_path / "lines.S"
    text = guests.path("hello").parents[2] / "sample_guests" / "hello" / "hello.S"
    source.write_text(text.read_text() + "\n.text\n.code32\nnever_reached:\n        nop\n        nop\n")
    include = str(ROOT / "sample_guests")
    subprocess.run(["as", "-g", "--64", "-mx86-used-note=no", "-I", include, "-o", "lines.o", "lines.S"], cwd=tmp_path, check=True)
    script = str(ROOT / "sample_guests" / "guest.ld")
    subprocess.run(
        ["ld", "-m", "elf_x86_64", "-z", "noexecstack", "-T", script, "-o", "lines.elf", "lines.o"], cwd=tmp_path, check=True
    )
    cli("boot", tmp_path / "lines.elf", "-o", tmp_path / "boot", *EXIT).ok()
    cli("boot", "coverage", tmp_path / "boot", "--as", "lcov", "-o", tmp_path / "lcov").ok()
    lines = (tmp_path / "lcov").read_text().splitlines()
    assert lines[0] == "TN:"
    assert lines[1].endswith("lines.S")
    counts = {int(line.split(",")[0][3:]): int(line.split(",")[1]) for line in lines if line.startswith("DA:")}
    numbered = source.read_text().splitlines()
    never = numbered.index("never_reached:") + 2
    assert counts[never] == counts[never + 1] == 0
    assert max(counts.values()) > 10
    assert f"LF:{len(counts)}" in lines
    assert re.search(r"\d+ .*lines\.S$", cli("boot", "coverage", tmp_path / "boot").ok().out, re.MULTILINE)
