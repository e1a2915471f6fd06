"""What the parts of `StorageSuite` have in common."""

from collections.abc import Iterator

import pytest

from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.records import OnDuplicate
from dicomweb_server.testing import search_cases


class StorageCase:
    """The fixtures of the suite; a backend gives the first three."""

    @pytest.fixture
    def storage(self) -> Iterator[Storage]:
        """An empty, opened storage."""
        raise NotImplementedError

    def reopen(self, storage: Storage) -> Storage:
        """Close the storage and open the same data again."""
        raise NotImplementedError

    def spoil(self, storage: Storage, study_uid: str) -> None:
        """Behind the back of the storage: make the number of series of a study wrong, or of its instances, and let it
        show another description; and leave a patient without a study. Skips where nothing derived is kept."""
        raise NotImplementedError

    @pytest.fixture
    def filled(self, storage: Storage) -> Storage:
        """With the data of the search table."""
        storage.store(records=search_cases.records(), on_duplicate=OnDuplicate.REJECT)
        return storage
