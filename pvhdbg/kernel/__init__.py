"""The kernel file that a user hands over: opening, unpacking, symbols, debug info, and where it lies in memory."""
