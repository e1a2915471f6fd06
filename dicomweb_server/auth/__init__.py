"""Who asks, and what they may do: users, passwords, tokens, roles and rules. Knows no framework."""
