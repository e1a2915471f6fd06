"""All documents of a kind, page by page."""

from collections.abc import Iterator, Sequence

from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.records import Document, DocumentTerm


def all_documents(
    storage: Storage, *, kind: str, terms: Sequence[DocumentTerm] = (), at_once: int = 100
) -> Iterator[Document]:
    """The documents for which all terms hold, in the order of `Storage.find_documents`; so many at once are in
    memory."""
    cursor: str | None = None
    while True:
        page = storage.find_documents(kind=kind, terms=terms, limit=at_once, cursor=cursor)
        yield from page.documents
        if (cursor := page.cursor) is None:
            return
