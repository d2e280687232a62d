"""The command line: one of the faces that mount the commands."""
