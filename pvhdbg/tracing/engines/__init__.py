"""What observes a running machine: each engine yields the same batches of events. They use targets; all else here is pure."""
