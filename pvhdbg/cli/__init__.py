"""The command line: one of the front ends that offer the commands."""
