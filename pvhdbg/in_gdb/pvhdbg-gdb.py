"""Source this file in GDB: it gives GDB the command `pvh`, the settings `set pvh …` and the functions `$pvh_…()`.

    (gdb) source gdb/pvhdbg-gdb.py
    (gdb) target remote :1234
    (gdb) pvh run-to-entry
    (gdb) pvh check

`pvhdbg gdb-path` prints where it is installed. It needs GDB 12 or newer with Python 3.10 or newer, and nothing from pip: the
package pvhdbg that it belongs to is found next to it, and nothing else is imported from there.
"""

import importlib
import os
import sys

import gdb


def _install() -> None:
    if sys.version_info < (3, 10):  # noqa: UP036 - GDB's Python, not the one that pvhdbg was installed for
        raise gdb.GdbError(f"pvhdbg needs Python 3.10 or newer in GDB; this one has {sys.version.split()[0]}")
    if not hasattr(gdb, "RemoteTargetConnection"):
        raise gdb.GdbError(f"pvhdbg needs GDB 12 or newer; this is {gdb.VERSION}")
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
    # Only for this import: other packages there may be for another Python than GDB's.
    sys.path.insert(0, root)
    try:
        package = importlib.import_module("pvhdbg")
    finally:
        sys.path.remove(root)
    if list(package.__path__) != [os.path.join(root, "pvhdbg")]:
        gdb.write(f"pvh: another pvhdbg is loaded already: {package.__file__}\n")
    from pvhdbg.in_gdb.commands import install

    install()


_install()
