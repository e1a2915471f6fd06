"""One class per thing that a URL names."""
