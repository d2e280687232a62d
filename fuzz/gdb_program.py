"""The program `gdb` of fuzz.lying_gdb: it answers as a real GDB at QEMU's stub does, and lies where it is told to.

It is started for each session and its start is most of its cost, so it imports nothing but what Python has loaded anyway: strings
are escaped here and the machine is read by marshal. It speaks to nobody but pvhdbg.
"""

from __future__ import annotations

import marshal
import os
import sys
import time

MACHINE, SCRIPT = "machine", "script"  # files in its folder
_HONEST = 192  # bytes of the script below this: the answer is honest
_CONSOLE = '-interpreter-exec console "'
_FRAME = 'frame={addr="0x0000000000100000",func="??",args=[],arch="i386:x86-64"},thread-id="1",stopped-threads="all"'
_STOPPED = f'*stopped,reason="signal-received",signal-name="SIGTRAP",signal-meaning="Trace/breakpoint trap",{_FRAME}'


class _Answers:
    """What an honest GDB prints: the lines before the result record, the result without its token, and the lines after it."""

    def __init__(self, registers: dict[str, int], memory: dict[int, bytes], listings: dict[str, str]) -> None:
        self._registers = registers
        self._memory = memory
        self._listings = listings

    def __call__(self, command: str) -> tuple[list[str], str, list[str]]:
        if command.startswith(_CONSOLE):
            return self._console(command[len(_CONSOLE) : -1]), "^done", []
        word, *rest = command.split()
        if word == "-gdb-version":
            return [_text("~", "GNU gdb (Debian 13.1-3) 13.1\n")], "^done", []
        if word == "-target-select":
            return [f"*stopped,{_FRAME}"], "^connected", []
        if word == "-data-list-register-names":
            return [], f"^done,register-names=[{','.join(_quoted(name) for name in self._registers)}]", []
        if word == "-data-list-register-values":
            values = list(self._registers.values())
            rows = [f'{{number="{at}",value="{values[int(at)]:#x}"}}' for at in rest[2:]]
            return [], f"^done,register-values=[{','.join(rows)}]", []
        if word == "-data-read-memory-bytes":
            at, size = int(rest[0], 16), min(int(rest[1]), 1 << 16)
            data = self._bytes(at, size).hex()
            return [], f'^done,memory=[{{begin="{at:#018x}",offset="0x0",end="{at + size:#018x}",contents="{data}"}}]', []
        if word == "-break-insert":
            return [], '^done,bkpt={number="1",type="hw breakpoint",addr="0x100000"}', []
        if word in ("-exec-continue", "-exec-step-instruction"):
            return [], "^running", ['*running,thread-id="all"', "(gdb) ", _STOPPED]
        return [], "^done", []

    def _console(self, line: str) -> list[str]:
        if line == "show architecture":
            return [_text("~", 'The target architecture is set to "i386:x86-64".\n')]
        if line.startswith("monitor "):
            return [_text("@", self._listings.get(line.removeprefix("monitor "), ""))]
        if line.startswith("maintenance packet "):
            packet = line.rpartition(" ")[2]
            reply = "0" if packet == "qqemu.PhyMemMode" else "QCp01.01" if packet == "qC" else "OK"
            return [_text("~", f'sending: "{packet}"\n'), _text("~", f'received: "{reply}"\n')]
        return [_text("~", f"$1 = {line}\n")]

    def _bytes(self, address: int, size: int) -> bytes:
        data = bytearray(size)
        for at, piece in self._memory.items():
            low, high = max(at, address), min(at + len(piece), address + size)
            if low < high:
                data[low - address : high - address] = piece[low - at : high - at]
        return bytes(data)


def _text(stream: str, text: str) -> str:
    return stream + _quoted(text)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"'


def _lied(lie: int, more: bytes, token: str, honest: tuple[list[str], str, list[str]]) -> bytes:
    """The bytes of one answer."""
    before, result, after = honest
    right = "".join(f"{line}\n" for line in (*before, token + result, "(gdb) ", *after)).encode()
    if lie < _HONEST:
        return right
    begin = "".join(f"{line}\n" for line in before).encode()
    mine = token.encode()
    kinds = (
        mine + b'^error,msg="\\033[2J\\n::error::x"\n',
        begin + mine + b"^done\n",
        right[: len(right) // 2] + b"\n",
        begin + (token + result).encode()[: len(token + result) * 2 // 3] + b"\n" + right,
        bytes(byte if byte == 10 else byte ^ more[index % len(more)] & 1 for index, byte in enumerate(right)),
        b"9" + right,
        more + b"\n" + right,
        mine + b"^done," + more + b"\n",
        b'~"\\033]0;x\\007\\n"\n@"\\033[2J"\n&"##vso[x"\n' + right,
        mine + b"^done," + b"a={" * 300 + b"}" * 300 + b"\n",
        mine + b'^done,register-names=["rax",[],{}],register-values=["x",{number="-1",value="0x0"}],memory={},bkpt=[]\n',
        mine + b'^done,memory=[{begin="0x","contents"="zz"}]\n' + right,
        b'=thread-group-exited,id="i1"\n' + right,
        right + right,
        b"",  # no answer
        b"x" * (1 << 20) + b"\n" + right,
        b'*stopped,reason="\\033[2J",signal-name=[]\n' + right,
    )
    return kinds[lie % len(kinds)]


def main(folder: str) -> None:
    """Answer until pvhdbg has gone, or the script says that this GDB ends."""
    try:
        _talk(folder)
    except (OSError, KeyboardInterrupt):
        pass  # pvhdbg does not read any more


def _talk(folder: str) -> None:
    with open(f"{folder}/{MACHINE}", "rb") as machine, open(f"{folder}/{SCRIPT}", "rb") as told:
        answers, script = _Answers(*marshal.load(machine)), told.read()
    sys.stdout.buffer.write(b"(gdb) \n")
    sys.stdout.buffer.flush()
    for at, line in enumerate(sys.stdin):
        command = line.strip().lstrip("0123456789")
        token = line.strip()[: len(line.strip()) - len(command)]
        lie = script[at] if at < len(script) else 0
        if lie == 255:
            sys.stderr.write("\033[2J last words\n")
            return  # it ends
        sys.stdout.buffer.write(_lied(lie, script[at + 1 : at + 17] or b"\0", token, answers(command)))
        sys.stdout.buffer.flush()
        if lie == 254:
            os.close(1)  # end of file, but no end
            time.sleep(2)
            return
