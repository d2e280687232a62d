"""The content of the specifications as tables, each with its source; no behaviour."""
