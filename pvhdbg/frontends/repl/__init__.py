"""The prompt: a conversation with one machine, over the same verbs as everywhere else."""
