"""Access to machines. Errors of sockets, GDB and the like become TargetErrors here."""
