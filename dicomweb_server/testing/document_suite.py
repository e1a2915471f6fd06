"""The part of `StorageSuite` on documents."""

from collections.abc import Sequence

import pytest

from dicomweb_server.errors import NotFound, StorageError, VersionConflict
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.records import DocumentTerm, DocumentWrite, OnDuplicate
from dicomweb_server.testing.steps import at_once
from dicomweb_server.testing.storage_case import StorageCase

REJECT, REPLACE = OnDuplicate.REJECT, OnDuplicate.REPLACE


class DocumentSuite(StorageCase):
    """Documents, their versions, and finding them."""

    def test_a_document_and_its_versions(self, storage: Storage) -> None:
        body = {"ü": [1, 2.5, None, True, {"deep": "山"}]}
        first = storage.put_document(kind="k", document_id="d", body=body, keys={"name": ("a", "b")})
        assert (first.version, first.body, first.keys, first.deleted) == (1, body, {"name": ("a", "b")}, False)
        assert storage.get_document(kind="k", document_id="d") == first
        second = storage.put_document(kind="k", document_id="d", body=[2], keys={}, expected_version=1)
        assert storage.get_document(kind="k", document_id="d") == second
        assert storage.get_document(kind="k", document_id="d", version=1) == first
        gone = storage.delete_document(kind="k", document_id="d", expected_version=2)
        assert (gone.version, gone.deleted) == (3, True)
        with pytest.raises(NotFound):
            storage.get_document(kind="k", document_id="d")
        assert storage.get_document(kind="k", document_id="d", version=3).deleted
        assert list(storage.document_history(kind="k", document_id="d")) == [gone, second, first]
        again = storage.put_document(kind="k", document_id="d", body=4, keys={}, expected_version=0)
        assert (again.version, again.deleted) == (4, False)

    def test_versions_can_be_forgotten(self, storage: Storage) -> None:
        for number in range(1, 6):
            storage.put_document(kind="k", document_id="d", body=number, keys={})
        storage.put_document(kind="k", document_id="other", body=0, keys={})
        storage.put_document(kind="k", document_id="other", body=1, keys={})
        storage.forget_versions(kind="k", document_id="d", before=4)
        assert [each.version for each in storage.document_history(kind="k", document_id="d")] == [5, 4]
        with pytest.raises(NotFound):
            storage.get_document(kind="k", document_id="d", version=3)
        storage.forget_versions(kind="k", document_id="d", before=99)
        storage.forget_versions(kind="k", document_id="unknown", before=2)
        assert storage.get_document(kind="k", document_id="d").body == 5
        assert storage.put_document(kind="k", document_id="d", body=6, keys={}, expected_version=5).version == 6
        assert len(storage.document_history(kind="k", document_id="other")) == 2

    def test_documents_can_be_purged(self, storage: Storage) -> None:
        for number in range(1, 8):
            keys = {"day": (f"0{number}", f"0{number}x"), "user": ("anna" if number % 2 else "walt",)}
            for version in range(1 + number % 3):
                storage.put_document(kind="k", document_id=f"d{number}", body=version, keys=keys)
        storage.put_document(kind="other", document_id="d1", body=0, keys={"day": ("01",), "user": ("anna",)})
        terms = (DocumentTerm(key="day", high="05"), DocumentTerm(key="user", equal="anna"))
        gone = [storage.purge_documents(kind="k", terms=terms, limit=2) for _ in range(3)]
        assert gone == [2, 1, 0]
        left = [document.document_id for document in storage.find_documents(kind="k").documents]
        assert left == ["d2", "d4", "d6", "d7"]
        assert list(storage.document_history(kind="k", document_id="d5")) == []
        with pytest.raises(NotFound):
            storage.get_document(kind="k", document_id="d5", version=1)
        assert storage.put_document(kind="k", document_id="d5", body=9, keys={}, expected_version=0).version == 1
        walt = DocumentTerm(key="user", equal="walt")
        assert storage.purge_documents(kind="k", terms=[walt], limit=100) == 3
        assert len(storage.document_history(kind="k", document_id="d7")) == 2
        assert storage.get_document(kind="other", document_id="d1").body == 0

    def test_document_misses(self, storage: Storage) -> None:
        storage.put_document(kind="k", document_id="d", body=1, keys={})
        for kind, document_id, version in (("k", "e", None), ("l", "d", None), ("k", "d", 2), ("k", "d", 0)):
            with pytest.raises(NotFound):
                storage.get_document(kind=kind, document_id=document_id, version=version)
        with pytest.raises(NotFound):
            storage.delete_document(kind="k", document_id="e")
        assert list(storage.document_history(kind="k", document_id="e")) == []

    def test_expected_versions(self, storage: Storage) -> None:
        storage.put_document(kind="k", document_id="d", body=1, keys={}, expected_version=0)
        for expected in (0, 2):
            with pytest.raises(VersionConflict):
                storage.put_document(kind="k", document_id="d", body=2, keys={}, expected_version=expected)
        with pytest.raises(VersionConflict):
            storage.delete_document(kind="k", document_id="d", expected_version=2)
        with pytest.raises(VersionConflict):
            storage.put_document(kind="k", document_id="e", body=1, keys={}, expected_version=1)
        assert storage.get_document(kind="k", document_id="d").version == 1

    def test_one_of_several_writers_wins_a_version(self, storage: Storage) -> None:
        def write() -> bool:
            try:
                storage.put_document(kind="k", document_id="d", body=1, keys={}, expected_version=0)
            except VersionConflict:
                return False
            return True

        assert sorted(at_once([write] * 6)) == [False] * 5 + [True]

    @pytest.mark.parametrize(
        ("term", "expected"),
        [
            (DocumentTerm(key="name", equal="anna"), ["1", "3"]),
            (DocumentTerm(key="name", equal="ann"), []),
            (DocumentTerm(key="name", prefix="an"), ["1", "2", "3"]),
            (DocumentTerm(key="name", prefix=""), ["1", "2", "3", "4"]),
            (DocumentTerm(key="name", prefix="%"), []),
            (DocumentTerm(key="name", low="anne", high="bert"), ["2", "4"]),
            (DocumentTerm(key="name", low="b"), ["4"]),
            (DocumentTerm(key="name", high="anna"), ["1", "3"]),
            (DocumentTerm(key="other", equal="x"), ["4"]),
        ],
    )
    def test_find_documents(self, storage: Storage, term: DocumentTerm, expected: list[str]) -> None:
        names: Sequence[tuple[str, ...]] = (("anna",), ("anne", "anne"), ("zoe", "anna"), ("bert",))
        for number, values in enumerate(names, 1):
            keys = {"name": values, **({"other": ("x",)} if number == 4 else {})}
            storage.put_document(kind="k", document_id=str(number), body=number, keys=keys)
        storage.put_document(kind="other", document_id="9", body=9, keys={"name": ("anna", "anne", "bert")})
        storage.put_document(kind="k", document_id="5", body=5, keys={"name": ("anna", "anne", "bert", "zz")})
        storage.delete_document(kind="k", document_id="5")
        storage.put_document(kind="k", document_id="3", body=3, keys={"name": ("anna",)})
        found = storage.find_documents(kind="k", terms=[term])
        assert [document.document_id for document in found.documents] == expected
        assert found.cursor is None

    def test_several_documents_at_once(self, storage: Storage) -> None:
        for kind, document_id in (("k", "a"), ("k", "b"), ("l", "a"), ("k", "gone")):
            storage.put_document(kind=kind, document_id=document_id, body=[kind, document_id], keys={})
        storage.delete_document(kind="k", document_id="gone")
        newest = storage.put_document(kind="k", document_id="a", body="new", keys={"x": ("y",)})
        names = [("k", "a"), ("l", "a"), ("k", "gone"), ("k", "never"), ("k", "a")]
        found = storage.documents_of(names=names)
        assert set(found) == {("k", "a"), ("l", "a")}
        assert found["k", "a"] == newest
        assert found["l", "a"].body == ["l", "a"]
        assert storage.documents_of(names=[]) == {}

    def test_documents_are_written_together_where_that_can_be(self, storage: Storage) -> None:
        storage.put_document(kind="k", document_id="a", body=1, keys={})
        both = [
            DocumentWrite(kind="k", document_id="a", expected_version=1, deleted=True),
            DocumentWrite(kind="k", document_id="b", expected_version=0, body=2, keys={"n": ("x",)}),
        ]
        if not storage.transacts:
            with pytest.raises(StorageError):
                storage.write_documents(writes=both)
            return
        wrong = [*both, DocumentWrite(kind="k", document_id="c", expected_version=1, body=3)]
        with pytest.raises(VersionConflict):
            storage.write_documents(writes=wrong)
        assert storage.get_document(kind="k", document_id="a").version == 1
        assert not storage.document_history(kind="k", document_id="b")
        assert [(one.document_id, one.version, one.deleted) for one in storage.write_documents(writes=both)] == [
            ("a", 2, True),
            ("b", 1, False),
        ]
        found = storage.find_documents(kind="k", terms=[DocumentTerm(key="n", equal="x")]).documents
        assert [one.body for one in found] == [2]

    def test_documents_come_in_pages(self, storage: Storage) -> None:
        for number in range(7):
            storage.put_document(kind="k", document_id=f"ü{number}", body=number, keys={"n": (str(number % 2),)})
        seen, cursor = [], None
        while True:
            page = storage.find_documents(kind="k", terms=[DocumentTerm(key="n", equal="0")], limit=2, cursor=cursor)
            seen += [document.body for document in page.documents]
            cursor = page.cursor
            if cursor is None:
                break
        assert seen == [0, 2, 4, 6]
