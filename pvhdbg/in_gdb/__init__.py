"""Everything that runs in GDB's own Python: the command pvh, its settings, functions and printers."""
