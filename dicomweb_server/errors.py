"""Every error that crosses a boundary of this server.

The tree has two halves: what the caller did wrong (`CallerError`) and what went wrong here (`ServerError`). No class
holds an HTTP status: each front end owns one table that translates (`http/errors.py`), and a test walks this tree so
that no class is left out of it. Messages are shown to clients: they say what was wrong and what is accepted, and
never hold a path of this machine, a secret or an attribute value of a patient.
"""

from collections.abc import Sequence


class DicomwebError(Exception):
    """The root. `message` is one readable sentence."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class CallerError(DicomwebError):
    """The request cannot be served as it was asked."""


class BadRequest(CallerError):
    """Malformed: a UID, a query, a header, an envelope."""


class TooCostly(BadRequest):
    """A search that would have to look at too much; `message` says how to narrow it."""


class BadDicom(BadRequest):
    """The bytes are no DICOM object that can be kept; `message` is the reason."""


class NotDicom(BadDicom):
    """Nothing in the bytes says that they were meant to be DICOM."""


class NotFound(CallerError):
    """The resource named by the request does not exist."""


class Gone(NotFound):
    """The resource was there and is deleted."""


class NotAcceptable(CallerError):
    """No representation fits the Accept header; `offered` lists the media types that would."""

    def __init__(self, message: str, offered: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.offered = tuple(offered)


class UnsupportedMedia(CallerError):
    """The payload's media type is not taken here."""


class TooLarge(CallerError):
    """The payload exceeds a configured limit."""


class RangeNotSatisfiable(CallerError):
    """A byte range starts behind the end; `size_bytes` is the size of the resource."""

    def __init__(self, message: str, size_bytes: int) -> None:
        super().__init__(message)
        self.size_bytes = size_bytes


class Conflict(CallerError):
    """The request contradicts what is stored."""


class VersionConflict(Conflict):
    """A document changed since the version that the caller expected."""


class PreconditionFailed(CallerError):
    """The resource is not as the request wants it to be before it changes it."""


class Invalid(BadRequest):
    """A resource that a client wrote is not valid. `problems` are pairs of the path of an element and what is wrong."""

    def __init__(self, message: str, problems: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class Unprocessable(CallerError):
    """The request is well formed, but goes against a rule of this server."""


class BadPixels(CallerError):
    """The pixel data of the resource is broken, or larger than what is decoded here; nothing can be shown of it."""


class DecoderFailed(BadPixels):
    """A native codec crashed on these pixels, or exceeded its limits of time or memory."""


class Unauthenticated(CallerError):
    """Nobody is logged in, or the credentials are not valid. `challenges` say how to log in (RFC 9110 11.6.1)."""

    challenges: tuple[str, ...] = ("Bearer",)


class Forbidden(CallerError):
    """The caller may not do this."""


class TooManyRequests(CallerError):
    """The caller asks too often, or guesses: the same request may succeed after `retry_after_seconds`."""

    def __init__(self, message: str, retry_after_seconds: int = 5) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class ServerError(DicomwebError):
    """The request was fine; this server could not serve it."""


class Busy(ServerError):
    """As many requests of this kind are served as can be: the same one may succeed after `retry_after_seconds`."""

    def __init__(self, message: str, retry_after_seconds: int = 5) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class StorageError(ServerError):
    """The storage failed in a way that no retry mends."""


class StorageUnavailable(StorageError):
    """The storage is down, busy or starting: the same request may succeed after `retry_after_seconds`."""

    def __init__(self, message: str, retry_after_seconds: int = 5) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class OutcomeUnknown(StorageUnavailable):
    """The storage failed in the middle of committing: later it may turn out to be done, or not. The same request may be
    sent again; nothing that it may refer to may be deleted."""


class StorageFull(StorageUnavailable):
    """No space is left (PS3.18 Table I.2-2, failure reason A700)."""


class StorageCorrupt(StorageError):
    """What was stored cannot be read back as it was."""


class LinkBroken(StorageCorrupt):
    """A file that the archive reads where it is, is missing or another one now. The message says which of both."""


class CodecError(ServerError):
    """Pixels cannot be decoded, encoded or rendered for a reason that lies here."""


class MissingCodec(CodecError):
    """No installed library handles the transfer syntax; `message` names it and the package to install."""


class CodecBusy(CodecError):
    """All codec processes stayed busy: the same request may succeed later."""


class IssuerUnavailable(ServerError):
    """The service that says who somebody is does not answer: the same request may succeed after
    `retry_after_seconds`."""

    retry_after_seconds = 10


class ConfigError(ServerError):
    """The settings cannot be used; raised at start-up only."""
