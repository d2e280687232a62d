"""A file with all that a serial port writes, beside wherever the user's own `-serial` sends it: QEMU's `logfile` of a chardev.

`-serial` takes short forms ("stdio", "tcp:host:port,server=on"), which have no place for a log file. They are written out here as the chardev
that QEMU makes of them (chardev/char.c, qemu_chr_parse_compat).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from pvhdbg.errors import BadInput

_ID = "pvhdbg-serial"
_PLAIN = ("stdio", "null", "pty", "vc")
_SOCKETS = {"tcp": "", "telnet": ",telnet=on", "websocket": ",websocket=on"}
_HOST = re.compile(r"([^:,]{0,64}):([^,]{1,32})(.*)", re.DOTALL)


def with_copy(arguments: Sequence[str], path: str) -> list[str]:
    """QEMU's arguments, whose first `-serial` also writes to the file `path`. Raises BadInput where it cannot."""
    words = list(arguments)
    at = next(index for index, word in enumerate(words) if word.lstrip("-") == "serial" and word.startswith("-"))
    if at + 1 >= len(words):
        raise BadInput("-serial has no value", "see QEMU's manual, or leave it out")
    value = words[at + 1]
    log = f",logfile={_list_value(path)},logappend=off"
    if value.startswith("chardev:"):
        return _with_log(words, value.removeprefix("chardev:"), log)
    shared = value.startswith("mon:")  # QEMU's monitor is on it too
    backend = _backend(value.removeprefix("mon:"))
    made = [
        "-chardev",
        f"{backend},id={_ID}{_SHARED if shared else ''}{log}",
        *(["-mon", f"chardev={_ID},mode=readline"] if shared else []),
    ]
    if shared and backend == "stdio":
        made[1] += ",signal=off"  # Ctrl-C is the guest's then
    return [*words[:at], *made, "-serial", f"chardev:{_ID}", *words[at + 2 :]]


_SHARED = ",mux=on"


def _with_log(words: list[str], name: str, log: str) -> list[str]:
    for index, (word, value) in enumerate(itertools.pairwise(words)):
        if word.lstrip("-") == "chardev" and f"id={name}" in value.split(","):
            if any(part.startswith("logfile=") for part in value.split(",")):
                raise BadInput(f"the chardev {name} has a logfile already", "leave --serial out, or logfile=")
            return [*words[: index + 1], value + log, *words[index + 2 :]]
    raise BadInput(f"-serial chardev:{name} names no -chardev", f"add: -chardev stdio,id={name}")


def _backend(value: str) -> str:
    """A short form as a chardev's backend and its options."""
    kind, colon, rest = value.partition(":")
    if value in _PLAIN:
        return value
    if kind in ("file", "pipe") and colon:
        return f"{kind},path={_list_value(rest)}"
    if kind == "unix" and colon:
        return f"socket,path={rest}"  # its options are those of a chardev
    if kind in _SOCKETS and (host := _HOST.fullmatch(rest)):
        return f"socket,host={host[1]},port={host[2]}{_SOCKETS[kind]}{host[3]}"
    if value == "none":
        raise BadInput("-serial none leaves no serial port whose output can be kept", "leave out --serial, or -serial none")
    raise BadInput(f"what -serial {value} writes cannot be kept by --serial", "give it as: -chardev …,id=ID -serial chardev:ID")


def _list_value(text: str) -> str:
    """A value in one of QEMU's lists, which are split at commas; a doubled one is a comma."""
    return text.replace(",", ",,")
