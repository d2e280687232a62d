"""Simulate what each VMM does with a kernel file: one module per family of loaders, and the catalogue of all loaders."""
