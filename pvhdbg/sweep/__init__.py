"""Sweeps: kernels x VMMs x machines x options, each combination booted, judged, and kept in one SQLite file."""
