"""The storage contract: what the server asks of a database (`base`), in which words (`records`, `query`)."""
