"""The user's kernel file: opening, unpacking, symbols, debug info, and its place in memory."""
