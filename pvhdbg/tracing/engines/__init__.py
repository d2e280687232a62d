"""The engines that observe a running machine: all yield the same batches of events. They use targets; the rest is pure."""
