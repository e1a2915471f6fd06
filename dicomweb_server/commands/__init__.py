"""Commands that have more to say than a line of `__main__`."""
