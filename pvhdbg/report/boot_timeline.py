"""The time line of a recorded boot as one HTML file: chapters, CPU modes, milestones and functions, on a scale that can be zoomed.

The file needs no network. Its script is its own, and the content security policy allows it by its hash; the data are text for the
script, never markup.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256

from pvhdbg.decode.cpu_mode import Mode
from pvhdbg.report.html_style import STYLE
from pvhdbg.report.markup import Markup, tag
from pvhdbg.tracing.boot_file import BootInfo
from pvhdbg.tracing.chapters import Chapter
from pvhdbg.tracing.milestones import Milestone
from pvhdbg.tracing.story import Node
from pvhdbg.tracing.symbol_text import label

_STYLE = (
    STYLE
    + """
#picture { width: 100%; height: 620px; border: 1px solid var(--line); display: block; cursor: grab; touch-action: none; }
#bar { display: flex; gap: 0.8rem; flex-wrap: wrap; align-items: center; margin: 0.5rem 0; }
#told { min-height: 1.5em; font-family: ui-monospace, monospace; }
"""
)

_SCRIPT = """
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const canvas = document.getElementById("picture"), told = document.getElementById("told"), field = document.getElementById("search");
const total = [data.first, data.end];
let from = total[0], to = total[1], found = [], at = 0;
const colours = ["#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756", "#72b7b2", "#9d755d"];
const ROW = 18, LANES = {chapters: 24, modes: 50, milestones: 76, functions: 112};
const format = number => Math.round(number).toLocaleString("en");
const x = number => (number - from) / (to - from) * canvas.clientWidth;
const number = pixel => from + pixel / canvas.clientWidth * (to - from);

function draw() {
  const scale = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
  canvas.width = width * scale; canvas.height = height * scale;
  const pen = canvas.getContext("2d"), ink = getComputedStyle(document.body).color;
  pen.scale(scale, scale); pen.font = "12px monospace"; pen.textBaseline = "middle";
  const bars = (rows, y) => rows.forEach((row, index) => {
    const left = Math.max(x(row[1]), 0), right = Math.min(x(row[2]), width);
    if (right < 0 || left > width || right <= left) return;
    pen.fillStyle = colours[index % colours.length]; pen.fillRect(left, y, Math.max(right - left, 1), ROW);
    if (right - left > 7 * row[0].length + 8) { pen.fillStyle = "#fff"; pen.fillText(row[0], left + 4, y + ROW / 2); }
  });
  bars(data.chapters, LANES.chapters); bars(data.modes, LANES.modes);
  pen.fillStyle = ink;
  for (let step = 0; step <= 4; step++) {
    const here = from + (to - from) * step / 4;
    pen.textAlign = step === 0 ? "left" : step === 4 ? "right" : "center"; pen.fillText(format(here), step / 4 * width, 10);
  }
  pen.textAlign = "left";
  let shown = 0;
  const ends = new Map(), label = (name, left, y, key) => {
    if (left >= (ends.get(key) ?? -1)) { pen.fillText(name, left + 3, y + ROW / 2); ends.set(key, left + 7.3 * name.length + 10); shown++; }
  };
  data.milestones.forEach(([name, where]) => {
    const left = x(where);
    if (left < 0 || left > width) return;
    pen.fillRect(left, LANES.milestones, 1.5, ROW); label(name, left, LANES.milestones, "m");
  });
  const rows = Math.floor((height - LANES.functions) / ROW);
  data.functions.forEach(([name, where, depth], index) => {
    const left = x(where);
    if (left < 0 || left > width) return;
    const row = depth % rows, y = LANES.functions + row * ROW, hit = found.includes(index);
    pen.fillStyle = hit ? "#e45756" : colours[depth % colours.length];
    pen.fillRect(left, y, hit ? 3 : 1, ROW - 2); pen.fillStyle = hit ? "#e45756" : ink; label(name, left, y, row);
  });
  canvas.dataset.from = from; canvas.dataset.to = to; canvas.dataset.shown = shown;
}

function view(left, right) {
  const least = 10, span = Math.min(Math.max(right - left, least), total[1] - total[0]);
  from = Math.min(Math.max(left, total[0]), total[1] - span); to = from + span;
  requestAnimationFrame(draw);
}

function zoom(factor, pixel) {
  const centre = number(pixel);
  view(centre - (centre - from) * factor, centre + (to - centre) * factor);
}

canvas.addEventListener("wheel", event => { event.preventDefault(); zoom(event.deltaY > 0 ? 1.3 : 1 / 1.3, event.offsetX); }, {passive: false});
let held = null;
canvas.addEventListener("pointerdown", event => { held = [event.offsetX, from, to]; canvas.setPointerCapture(event.pointerId); });
canvas.addEventListener("pointerup", () => { held = null; });
canvas.addEventListener("pointermove", event => {
  if (held) {
    const moved = (event.offsetX - held[0]) / canvas.clientWidth * (held[2] - held[1]);
    view(held[1] - moved, held[2] - moved);
    return;
  }
  const here = number(event.offsetX), near = (to - from) / canvas.clientWidth * 4;
  const chapter = data.chapters.find(row => row[1] <= here && here < row[2]), mode = data.modes.find(row => row[1] <= here && here < row[2]);
  const rows = Math.floor((canvas.clientHeight - LANES.functions) / ROW), row = Math.floor((event.offsetY - LANES.functions) / ROW);
  const one = data.functions.find(([, where, depth]) => Math.abs(where - here) <= near && (row < 0 || depth % rows === row));
  told.textContent = `instruction ${format(here)}` + (chapter ? `, ${chapter[0]}` : "") + (mode ? `, ${mode[0]}` : "") +
    (one ? `: ${one[0]} first executed at ${format(one[1])}` : "");
});
document.getElementById("in").addEventListener("click", () => zoom(0.5, canvas.clientWidth / 2));
document.getElementById("out").addEventListener("click", () => zoom(2, canvas.clientWidth / 2));
document.getElementById("all").addEventListener("click", () => view(...total));
document.addEventListener("keydown", event => {
  if (event.target === field) return;
  const step = (to - from) / 4;
  if (event.key === "+") zoom(0.5, canvas.clientWidth / 2);
  else if (event.key === "-") zoom(2, canvas.clientWidth / 2);
  else if (event.key === "ArrowLeft") view(from - step, to - step);
  else if (event.key === "ArrowRight") view(from + step, to + step);
});
field.addEventListener("input", () => {
  const word = field.value.toLowerCase();
  found = word ? data.functions.flatMap(([name], index) => name.toLowerCase().includes(word) ? [index] : []) : [];
  at = -1; told.textContent = word ? `${found.length} functions: Enter goes to the next one` : ""; requestAnimationFrame(draw);
});
field.addEventListener("keydown", event => {
  if (event.key !== "Enter" || !found.length) return;
  at = (at + 1) % found.length;
  const [name, where] = data.functions[found[at]], span = Math.min(to - from, 2000);
  view(where - span / 2, where + span / 2); told.textContent = `${name} first executed at ${format(where)}`;
});
window.addEventListener("resize", draw);
draw();
"""


def page(
    info: BootInfo,
    parts: Sequence[Chapter],
    modes: Sequence[tuple[int, Mode]],
    milestones: Sequence[Milestone],
    nodes: Sequence[Node],
) -> str:
    """The file. Numbers are those of instructions; those before the entry are negative."""
    first = min((part.first for part in parts), default=0)
    end = max((part.behind for part in parts), default=1)
    behind = [*(number for number, _ in modes[1:]), end]
    data = {
        "first": first,
        "end": max(end, first + 1),
        "chapters": [[part.name, part.first, part.behind] for part in parts],
        "modes": [[mode.value, number, last] for (number, mode), last in zip(modes, behind, strict=True)],
        "milestones": [[label(f"{one.name} {one.detail}".strip()), one.seq] for one in milestones],
        "functions": [[label(node.started.name), node.started.number, node.depth] for node in nodes],
    }
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    title = f"{label(info.kernel.rpartition('/')[2])}: a recorded boot"
    policy = f"default-src 'none'; style-src '{_hash(_STYLE)}'; script-src '{_hash(_SCRIPT)}'; base-uri 'none'; form-action 'none'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Markup(_STYLE)),
    )
    body = tag(
        "body",
        tag("h1", title, class_="good"),
        tag("p", f"{label(info.vmm)}; {end:,} instructions since the entry; ended: {label(info.end)}", class_="dim"),
        tag(
            "div",
            tag("button", "zoom in", id="in"),
            tag("button", "zoom out", id="out"),
            tag("button", "all", id="all"),
            tag("input", id="search", type="search", placeholder="find a function", aria_label="find a function"),
            tag("span", "wheel: zoom; drag: move; + - and arrows", class_="dim"),
            id="bar",
        ),
        tag("canvas", id="picture", tabindex=0, role="img", aria_label=title),
        tag("p", "", id="told"),
        tag("script", Markup(text), id="data", type="application/json"),
        tag("script", Markup(_SCRIPT)),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _hash(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"
