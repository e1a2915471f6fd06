"""Share links: one study for whoever has the link, until it expires or is revoked."""

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dicomweb_server.auth.access import only_study
from dicomweb_server.auth.rights import Identity
from dicomweb_server.auth.tokens import Signer
from dicomweb_server.errors import NotFound, Unauthenticated
from dicomweb_server.permissions import Permission
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.paging import all_documents
from dicomweb_server.storage.records import Document, DocumentTerm

KIND = "share"
_MAY = frozenset({Permission.SEARCH, Permission.RETRIEVE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A link. `expires` is in seconds since 1970. `view_only`: pictures may be seen, not the study be taken away."""

    share_id: str
    study_uid: str
    created_by: str
    expires: float
    view_only: bool
    note: str = ""


class Shares:
    """All links. `clock` gives seconds since 1970."""

    def __init__(self, storage: Storage, signer: Signer, *, clock: Callable[[], float] = time.time) -> None:
        self._storage = storage
        self._signer = signer
        self._clock = clock

    def make(
        self, study_uid: str, *, created_by: str, seconds: int, view_only: bool, note: str = ""
    ) -> tuple[Share, str]:
        """A new link and the token that its URL ends in."""
        share_id = secrets.token_hex(8)
        expires = self._clock() + seconds
        body = {
            "study_uid": study_uid,
            "created_by": created_by,
            "expires": expires,
            "view_only": view_only,
            "note": note,
        }
        document = self._storage.put_document(
            kind=KIND, document_id=share_id, body=body, keys={"study": (study_uid,)}, expected_version=0
        )
        return _share(document), self._signer.sign({"share": share_id}, seconds=seconds)

    def find(self, token: str) -> Share:
        """The link of a token. Raises Unauthenticated where it has expired or was revoked."""
        try:
            share_id = str(self._signer.verify(token).get("share", ""))
        except Unauthenticated:
            raise Unauthenticated("this link has expired, or a part of it is missing; ask for a new one") from None
        try:
            share = _share(self._storage.get_document(kind=KIND, document_id=share_id))
        except NotFound:
            raise Unauthenticated("this link was revoked; ask for a new one") from None
        if share.expires < self._clock():
            raise Unauthenticated("this link has expired; ask for a new one")
        return share

    def identity(self, token: str) -> Identity:
        """Who comes by the link."""
        share = self.find(token)
        return Identity(
            name=f"share:{share.share_id}",
            kind="share",
            permissions=_MAY,
            terms=only_study(share.study_uid),
            view_only=share.view_only,
        )

    def all(self, *, study_uid: str | None = None) -> Iterator[Share]:
        """Every link, or those to a study, also those that have expired."""
        terms = (DocumentTerm(key="study", equal=study_uid),) if study_uid else ()
        return map(_share, all_documents(self._storage, kind=KIND, terms=terms))

    def revoke(self, share_id: str) -> None:
        """End it. Raises NotFound."""
        try:
            self._storage.delete_document(kind=KIND, document_id=share_id)
        except NotFound:
            raise NotFound("there is no such link") from None


def _share(document: Document) -> Share:
    return Share(share_id=document.document_id, **document.body)
