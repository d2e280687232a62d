"""pvhdbg for agents: the commands as tools of the Model Context Protocol (https://modelcontextprotocol.io)."""
