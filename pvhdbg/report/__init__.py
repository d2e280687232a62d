"""Reports as text: one file per format, each a pure `render(report) -> str`."""
