"""``quince run``: a conversation in the terminal, over the HTTP API."""
