"""The settings of `set pvh` and `show pvh`. Runs in GDB's own Python only."""

from __future__ import annotations

from collections.abc import Sequence

import gdb


class _SettingsPrefix(gdb.Command):
    """The settings of pvhdbg."""

    def __init__(self, name: str) -> None:
        self._show = name.startswith("show")
        super().__init__(name, gdb.COMMAND_DATA, gdb.COMPLETE_NONE, True)

    def invoke(self, argument: str, from_tty: bool) -> None:
        """Called without a name: show all settings."""
        if argument.strip() or not self._show:
            raise gdb.GdbError("which setting? (next: help set pvh)")
        for name in ("kernel", "spec", "strict"):
            gdb.execute(f"show pvh {name}")


class _Setting(gdb.Parameter):
    """One setting. Its `help` begins with `what` it is, and goes on with `more`. GDB prints nothing when it is set."""

    shown = "{}"  # what `show` prints

    def __init__(self, name: str, what: str, more: str, value: object, of: int, kind: int, *words: Sequence[str]) -> None:
        self.set_doc, self.show_doc, self.__doc__ = f"Set {what}.", f"Show {what}.", more
        super().__init__(f"pvh {name}", of, kind, *words)
        self.value = value

    def get_set_string(self) -> str:
        return ""

    def get_show_string(self, value: str) -> str:
        return self.shown.format(value)


class _Kernel(_Setting):
    def get_show_string(self, value: str) -> str:
        return f"The kernel file is {value}." if value else "The kernel file is the one whose symbols GDB has loaded."


def install() -> None:
    """Make the settings."""
    _SettingsPrefix("set pvh")
    _SettingsPrefix("show pvh")
    data = gdb.COMMAND_DATA
    spec = _Setting("spec", "the revision of the PVH ABI to judge by", "draft-a, v0 or v1; v1 by default.",
                    "v1", data, gdb.PARAM_ENUM, ("draft-a", "v0", "v1"))  # fmt: skip
    spec.shown = "The revision to judge by is {}."
    strict = _Setting("strict", "whether SHOULD rules and known deviations fail too", "What is undecided then exits with 4.",
                      False, data, gdb.PARAM_BOOLEAN)  # fmt: skip
    strict.shown = "Strict judging is {}."
    _Kernel("kernel", "the kernel file that the machine boots", "By default it is the file whose symbols GDB has loaded.",
            "", gdb.COMMAND_FILES, gdb.PARAM_OPTIONAL_FILENAME)  # fmt: skip
