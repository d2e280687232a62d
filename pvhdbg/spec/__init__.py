"""What the documents say: tables with their source, and no behaviour."""
