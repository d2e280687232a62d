"""Traces and recorded boots in the formats of other tools. Each streams."""
