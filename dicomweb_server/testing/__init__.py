"""The suites that every backend must pass, and the data sets they use. Needs pytest; not used in production."""
