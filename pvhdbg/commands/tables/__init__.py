"""The declarations of all commands, a file for each group of them."""
