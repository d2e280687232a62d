"""The prompt: a conversation with one machine, with the commands that every face has."""
