"""What each VMM would do with a kernel file: one module per family of loaders, and the catalogue of all."""
