"""The time line of a recorded boot in a real Chromium: it draws, zooms, moves, finds functions; hostile names stay text."""

from pathlib import Path
from typing import Any

from pvhdbg.decode.cpu_mode import Mode
from pvhdbg.report.boot_timeline import page
from pvhdbg.tracing.boot_file import BootInfo
from pvhdbg.tracing.chapters import Chapter
from pvhdbg.tracing.milestones import Milestone
from pvhdbg.tracing.story import Started, tree

HOSTILE = "</script><script>alert(1)</script>"
INFO = BootInfo("/tmp/<script>alert(1)<script>", "00" * 32, "QEMU <b>7.2</b>", (), True, 1.5, "alive & well")
PARTS = [Chapter("firmware", -5000, 0, 0xFFF0), Chapter("entry", 0, 1000, 0x100000), Chapter("start_kernel", 1000, 100_000, 0)]
MODES = [(0, Mode.PROTECTED), (20, Mode.LONG)]
NAMES = ["pvh_start", HOSTILE, "start_kernel", *(f"initcall_{number}" for number in range(100))]
STARTED = [
    Started(number * 900, name, 0x100000 + number, None, NAMES[number // 2] if number else None)
    for number, name in enumerate(NAMES)
]
FIRED = "document.getElementById('picture').dispatchEvent(new WheelEvent('wheel', {{deltaY: {}, clientX: 600, clientY: 300, bubbles: true}}))"
SPAN = "(picture => Number(picture.dataset.to) - Number(picture.dataset.from))(document.getElementById('picture'))"
DRAWN = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


def test_it_draws_zooms_and_finds(chromium: Any, tmp_path: Path) -> None:
    path = tmp_path / "boot.html"
    path.write_text(page(INFO, PARTS, MODES, [Milestone("64-bit", 20, 0x100040)], tree(STARTED)), encoding="utf-8")
    tab = chromium
    tab.open(path)
    assert (tab.complaints, tab.requests) == ([], [path.as_uri()])
    assert tab.ask("document.querySelectorAll('script').length") == 2
    assert "<script>alert(1)<script>" in tab.ask("document.querySelector('h1').textContent")
    whole = tab.ask(SPAN)
    assert whole == 105_000
    pixels = "new Set(document.getElementById('picture').getContext('2d').getImageData(0, 24, 900, 60).data).size"
    assert tab.ask(pixels) > 5
    for _ in range(3):
        tab.ask(FIRED.format(-100))
    tab.ask(DRAWN)
    near = tab.ask(SPAN)
    assert near < whole / 2
    tab.ask("document.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}))")
    tab.ask(DRAWN)
    assert abs(tab.ask(SPAN) - near) < 1
    tab.ask("document.getElementById('all').click()")
    tab.ask(DRAWN)
    assert tab.ask(SPAN) == whole
    field = "document.getElementById('search')"
    tab.ask(f"{field}.value = 'INITCALL_5'; {field}.dispatchEvent(new Event('input'))")
    assert tab.ask("document.getElementById('told').textContent") == "11 functions: Enter goes to the next one"
    tab.ask(f"{field}.dispatchEvent(new KeyboardEvent('keydown', {{key: 'Enter'}}))")
    tab.ask(DRAWN)
    assert tab.ask("document.getElementById('told').textContent") == "initcall_5 first executed at 7,200"
    assert tab.ask(SPAN) == 2000
    assert int(tab.ask("document.getElementById('picture').dataset.shown")) > 0
    assert tab.complaints == []


def test_a_function_is_below_the_one_that_reached_it() -> None:
    nodes = tree(STARTED)
    assert len(nodes) == len(STARTED)
    assert nodes[0].path == ("pvh_start",)
    assert all(node.path[-2] == node.started.parent for node in nodes[1:])
    odd = tree([Started(1, "a", 0, None, "a"), Started(2, "b", 0, None, "gone"), Started(3, "c", 0, None, "b")])
    assert [(node.started.name, node.depth) for node in odd] == [("a", 0), ("b", 0), ("c", 1)]
