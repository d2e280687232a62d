"""Manual pages from the commands' declarations, by argparse-manpage: pvhdbg.1 and one page for each command. Used by setup.py."""

from __future__ import annotations

import argparse
from pathlib import Path

from pvhdbg.commands.line import overview_parser, parser_of
from pvhdbg.commands.table import COMMANDS
from pvhdbg.version import VERSION


def file_names() -> list[str]:
    """The names of the pages: pvhdbg.1, pvhdbg-check.1, pvhdbg-trace-query.1 …"""
    return ["pvhdbg.1", *(f"pvhdbg-{command.name.replace(' ', '-')}.1" for command in COMMANDS)]


def write_manuals(folder: Path) -> None:
    """Write all pages into the folder."""
    from argparse_manpage.manpage import Manpage  # a package of the build alone

    folder.mkdir(parents=True, exist_ok=True)
    parsers = [overview_parser(), *map(parser_of, COMMANDS)]
    for name, parser in zip(file_names(), parsers, strict=True):
        (folder / name).write_text(_page(Manpage, parser, name), encoding="utf-8")


def _page(manpage: type, parser: argparse.ArgumentParser, name: str) -> str:
    title = name.removesuffix(".1")
    description = parser.description or ""
    parser.prog = title
    parser.man_short_description = description.split("\n", 1)[0].rstrip(".")  # type: ignore[attr-defined]
    data = {"project_name": "pvhdbg", "version": VERSION, "manual_section": "1", "manual_title": "pvhdbg", "prog": title}
    return str(manpage(parser, _data=data))
