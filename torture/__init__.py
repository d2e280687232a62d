"""The torture: kills at random moments, and odd surroundings. `make torture ROUNDS=…` runs it.

It is a separate program and not a part of pvhdbg. After each round no process, socket, FIFO or folder may be left, the exit code is a
documented one, and a guest of somebody else's runs to its end as if nothing had happened.
"""
