"""The prompt's own commands. Each takes its options and a context whose `face` is the conversation, and returns an Answer."""
