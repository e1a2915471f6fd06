"""The suite of `Storage`. A backend subclasses `StorageSuite` and gives it one fixture.

    class TestMine(StorageSuite):
        @pytest.fixture
        def storage(self, tmp_path): ...   # opened; closed afterwards
        def reopen(self, storage): ...     # a second, opened storage over the same data
        def spoil(self, storage, study_uid): ...   # damage that `check` has to find

Everything is tested through the contract only. Beside it stand `BinSuite`, `MovingSuite` and `BlobSuite`.
"""

from dicomweb_server.testing.derived_suite import DerivedSuite
from dicomweb_server.testing.document_suite import DocumentSuite
from dicomweb_server.testing.search_suite import SearchSuite
from dicomweb_server.testing.steps import at_once, put, series_hits, shown, study_hit
from dicomweb_server.testing.storing_suite import StoringSuite

__all__ = ["StorageSuite", "at_once", "put", "series_hits", "shown", "study_hit"]


class StorageSuite(StoringSuite, DerivedSuite, SearchSuite, DocumentSuite):
    """Everything that `base.py` and `records.py` promise."""
