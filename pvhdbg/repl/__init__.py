"""The prompt: a conversation with one machine, with the commands that every front end has."""
