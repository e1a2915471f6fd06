"""The suites that every backend must pass, and the data sets they use. Needs pytest; not used in production."""

import pytest

# So that a failure shows both sides, in a backend elsewhere too.
_SUITES = ("bin", "blob", "derived", "document", "moving", "search", "storing")
pytest.register_assert_rewrite(f"{__name__}.steps", *(f"{__name__}.{name}_suite" for name in _SUITES))
