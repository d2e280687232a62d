"""The settings of `set pvh` and `show pvh`. Runs in GDB's own Python only."""

from __future__ import annotations

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
    """Base class of our settings: GDB prints nothing when one is set."""

    def get_set_string(self) -> str:
        return ""


class _Spec(_Setting):
    """The revision of the PVH ABI to judge by: draft-a, v0 or v1."""

    set_doc = "Set the revision of the PVH ABI to judge by."
    show_doc = "Show the revision of the PVH ABI to judge by."

    def __init__(self) -> None:
        super().__init__("pvh spec", gdb.COMMAND_DATA, gdb.PARAM_ENUM, ("draft-a", "v0", "v1"))
        self.value = "v1"

    def get_show_string(self, value: str) -> str:
        return f"The revision to judge by is {value}."


class _Strict(_Setting):
    """Whether SHOULD rules and known deviations fail too, and what is undecided exits with 4."""

    set_doc = "Set whether SHOULD rules and known deviations fail too."
    show_doc = "Show whether SHOULD rules and known deviations fail too."

    def __init__(self) -> None:
        super().__init__("pvh strict", gdb.COMMAND_DATA, gdb.PARAM_BOOLEAN)
        self.value = False

    def get_show_string(self, value: str) -> str:
        return f"Strict judging is {value}."


class _Kernel(_Setting):
    """The kernel file that the machine boots; by default the file whose symbols GDB has loaded."""

    set_doc = "Set the kernel file that the machine boots."
    show_doc = "Show the kernel file that the machine boots."

    def __init__(self) -> None:
        super().__init__("pvh kernel", gdb.COMMAND_FILES, gdb.PARAM_OPTIONAL_FILENAME)
        self.value = ""

    def get_show_string(self, value: str) -> str:
        return f"The kernel file is {value}." if value else "The kernel file is the one whose symbols GDB has loaded."


def install() -> None:
    """Make the settings."""
    _SettingsPrefix("set pvh")
    _SettingsPrefix("show pvh")
    for setting in (_Spec, _Strict, _Kernel):
        setting()
