"""The verbs of the server, said once: ingest, search, retrieve, remove. No framework, no driver."""
