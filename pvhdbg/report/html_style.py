"""The style sheet of the HTML report. Colours are named once, for light and for dark; text keeps a contrast of 4.5 to 1."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #1b1f24; --dim: #5b636d; --line: #d4d9df; --panel: #f5f7f9;
  --good: #116329; --good-bg: #dcf5e3; --bad: #a40e26; --bad-bg: #ffe1e1; --warn: #7a4b00; --warn-bg: #fff1cf;
  --note: #0a4b9e; --note-bg: #ddecff; --off: #e7eaee; --ram: #cfe8d5; --reserved: #d9dde2; --acpi: #cfe0f8;
  --nvs: #e2d5f4; --unusable: #f6c9cc; --pmem: #f7e3b5; --part: #0a4b9e; }
@media (prefers-color-scheme: dark) { :root { --page: #0f1318; --ink: #e4e8ec; --dim: #9aa4af; --line: #323a43; --panel: #181d23;
  --good: #6fdd8b; --good-bg: #10331b; --bad: #ff9a9f; --bad-bg: #471318; --warn: #f0c054; --warn-bg: #3a2c07;
  --note: #8cc0ff; --note-bg: #10294a; --off: #242b33; --ram: #1d4229; --reserved: #343c46; --acpi: #1c3a66;
  --nvs: #40306b; --unusable: #6d222a; --pmem: #574410; --part: #8cc0ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem 1.25rem 3rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: anywhere; }
code, pre, q, .bits, .registers, svg { font-family: ui-monospace, "Cascadia Code", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
code, q { font-size: 0.92em; }
a { color: var(--note); }
h1 { margin: 0 0 0.75rem; padding: 0.9rem 1.1rem; border-radius: 0.6rem; font-size: 1.35rem; line-height: 1.3; }
h1.good, .chip.good { background: var(--good-bg); color: var(--good); }
h1.bad, .chip.bad { background: var(--bad-bg); color: var(--bad); }
h1.warn, .chip.warn { background: var(--warn-bg); color: var(--warn); }
.chip.note { background: var(--note-bg); color: var(--note); }
.chip.dim { background: var(--off); color: var(--ink); }
h2 { margin: 2.2rem 0 0.6rem; font-size: 1.15rem; border-bottom: 1px solid var(--line); padding-bottom: 0.25rem; }
h3 { margin: 1.2rem 0 0.3rem; font-size: 1rem; }
.dim, small, cite, footer { color: var(--dim); }
.chips { margin: 0 0 0.75rem; display: flex; flex-wrap: wrap; gap: 0.4rem; }
.chip { display: inline-block; border-radius: 1rem; padding: 0.05rem 0.6rem; font-size: 0.8rem; font-weight: 600;
  white-space: nowrap; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.15rem 1rem; margin: 0; }
dt { color: var(--dim); }
dd { margin: 0; }
.caution { background: var(--warn-bg); color: var(--warn); border-radius: 0.4rem; padding: 0.4rem 0.8rem; }
nav { position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap; gap: 0.2rem 1.1rem; padding: 0.6rem 0;
  margin-top: 0.8rem; background: var(--page); border-bottom: 1px solid var(--line); }
section { scroll-margin-top: 3rem; }
details.chapter { border: 1px solid var(--line); border-radius: 0.5rem; margin: 0.5rem 0; background: var(--panel); }
details.chapter > summary { padding: 0.45rem 0.8rem; display: flex; flex-wrap: wrap; gap: 0.4rem; align-items: center; }
details.chapter > summary .title { font-weight: 600; flex: 1 1 10rem; }
details.chapter > summary .title::before { content: "▸ "; color: var(--dim); }
details.chapter[open] > summary .title::before { content: "▾ "; }
details.chapter > .wide { padding: 0 0.8rem 0.5rem; }
details.rule { border-top: 1px solid var(--line); padding: 0 0.8rem; background: var(--page); }
details.rule > summary { padding: 0.3rem 0; }
details.rule:last-child { border-radius: 0 0 0.5rem 0.5rem; }
details.rule > summary .chip { min-width: 5.4rem; text-align: center; margin-right: 0.6rem; }
details.rule > summary small { margin-left: 0.6rem; }
details.rule > :not(summary) { margin-left: 6.2rem; }
details.rule > :last-child:not(summary) { margin-bottom: 0; padding-bottom: 0.7rem; }
details.rule ul { padding-left: 1.1rem; }
summary { cursor: pointer; list-style: none; }
summary::-webkit-details-marker { display: none; }
summary:hover { background: var(--off); }
blockquote { margin-top: 0.4rem; margin-right: 0; padding: 0.2rem 0.9rem; border-left: 3px solid var(--line); }
cite { display: block; font-size: 0.85rem; }
.registers { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: 0.2rem 1rem; margin-bottom: 1rem; }
.registers div { display: flex; justify-content: space-between; border-bottom: 1px dotted var(--line); }
.registers b, .field > b { color: var(--dim); font-weight: 600; }
.field { margin: 0.7rem 0; }
.field > b { display: inline-block; min-width: 4rem; }
.bits { display: grid; grid-template-columns: repeat(32, minmax(0, 1fr)); gap: 2px; margin-top: 0.25rem; }
.bit { background: var(--off); border-radius: 3px; text-align: center; font-size: 0.6rem; line-height: 1.25; padding: 1px 0;
  overflow: hidden; color: var(--ink); min-height: 3rem; }
.bit i, .bit b, .bit em { display: block; font-style: normal; }
.bit i { color: var(--dim); }
.bit b { font-size: 0.8rem; }
.bit em { font-size: 0.5rem; line-height: 1.1; }
.bit.on { background: var(--note-bg); color: var(--note); }
.bit.on i { color: var(--note); }
@media (max-width: 60rem) { .bits { grid-template-columns: repeat(16, minmax(0, 1fr)); } }
@media (max-width: 36rem) { .bits { grid-template-columns: repeat(8, minmax(0, 1fr)); }
  details.rule > :not(summary) { margin-left: 0; } }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; min-width: 36rem; font-size: 0.92rem; }
th { text-align: left; color: var(--dim); font-weight: 600; }
th, td { padding: 0.25rem 0.7rem 0.25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th, td b, td code, td:first-child { white-space: nowrap; }
.attributes { display: flex; gap: 2px; flex-wrap: wrap; }
.attribute { background: var(--off); color: var(--dim); border-radius: 3px; padding: 0 0.3rem; font-size: 0.75rem;
  white-space: nowrap; }
.attribute:not(.on) { text-decoration: line-through; color: var(--ink); }
.attribute.on { background: var(--note-bg); color: var(--note); }
q { background: var(--panel); border: 1px solid var(--line); border-radius: 3px; padding: 0 0.3rem; }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: 0.5rem; padding: 0.8rem; overflow-x: auto;
  max-height: 40rem; font-size: 0.85rem; white-space: pre-wrap; }
svg.memory { display: block; width: 100%; min-width: 40rem; max-width: 60rem; font-size: 12px; }
svg text { fill: var(--ink); }
svg .address { text-anchor: end; fill: var(--dim); }
svg .where { fill: var(--dim); }
svg .band { stroke: var(--page); stroke-width: 1.5; }
svg .ram { fill: var(--ram); }
svg .reserved { fill: var(--reserved); }
svg .acpi { fill: var(--acpi); }
svg .nvs { fill: var(--nvs); }
svg .bad { fill: var(--unusable); }
svg .pmem { fill: var(--pmem); }
svg .gap, svg .other { fill: none; stroke: var(--line); stroke-dasharray: 3 3; }
svg .part { fill: var(--part); fill-opacity: 0.85; }
svg .axis { stroke-width: 3; }
svg .line { fill: none; stroke: var(--part); stroke-width: 1; }
footer { margin-top: 3rem; font-size: 0.85rem; }
@media print { nav { display: none; } body { max-width: none; } pre { max-height: none; } }
"""
