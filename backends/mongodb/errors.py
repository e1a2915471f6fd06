"""The one place where what pymongo raises becomes an error of ours."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
from bson.errors import BSONError
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    ConnectionFailure,
    DocumentTooLarge,
    DuplicateKeyError,
    InvalidOperation,
    OperationFailure,
    PyMongoError,
)

from dicomweb_server.errors import (
    BadRequest,
    ConfigError,
    StorageCorrupt,
    StorageError,
    StorageFull,
    StorageUnavailable,
)

DUPLICATE_KEY = 11000
AUTHENTICATION = frozenset((13, 18, 8000))  # Unauthorized, AuthenticationFailed, Atlas

_FULL = frozenset((14031, 12501, 12502))  # OutOfDiskSpace, quota of a hosted database
_PASSING = frozenset((
    6, 7, 24, 50, 63, 64, 89, 91, 94, 133, 134, 150, 189, 202, 234, 262, 317, 358, 9001, 10107, 11600, 11602, 13388,
    13435, 13436, 46, 79, 100, 112, 17280, 146,
))  # fmt: skip
"""Codes that mean "not now": host not reachable, not primary, stepping down, time exceeded, majority not reached in
time, stale shard version, write conflict, out of memory, shutting down."""


def is_duplicate(error: PyMongoError) -> bool:
    """Whether the error is that a document of this `_id` exists already, and nothing else."""
    if isinstance(error, BulkWriteError):
        return not error.details.get("writeConcernErrors") and all(
            each.get("code") == DUPLICATE_KEY for each in error.details.get("writeErrors", ())
        )
    return isinstance(error, DuplicateKeyError)


@contextmanager
def driver_errors(*, opening: bool = False) -> Iterator[None]:
    """Turn what the driver raises into errors of ours; `opening`: refused credentials are a matter of the settings."""
    try:
        yield
    except PyMongoError as error:
        raise _translated(error, opening=opening) from error
    except BSONError as error:
        raise StorageError("MongoDB cannot hold a value of this record.") from error
    except UnicodeEncodeError as error:  # half a surrogate pair
        raise BadRequest("A text holds characters that cannot be stored.") from error
    except (zlib.error, orjson.JSONDecodeError) as error:
        raise StorageCorrupt("A record of the index cannot be read back.") from error


def _translated(error: PyMongoError, *, opening: bool) -> Exception:
    if isinstance(error, OperationFailure):
        return _of_codes(_codes(error), opening=opening)
    if isinstance(error, DocumentTooLarge):
        return StorageError("A record is larger than the 16 MB that MongoDB takes.")
    if isinstance(error, ConfigurationError):
        if opening and "requires at least" in str(error):
            return ConfigError("This MongoDB is too old: 4.4 or newer is needed.")
        if opening:
            return ConfigError(f"MongoDB cannot be used with these settings ({type(error).__name__}).")
        return StorageUnavailable("MongoDB cannot be used as it is configured now.")
    if isinstance(error, InvalidOperation):
        return StorageUnavailable("The index is not open.")
    if isinstance(error, ConnectionFailure) or error.timeout:
        return StorageUnavailable("MongoDB does not answer, or has no primary now.")
    return StorageError("MongoDB refused an operation.")


def _codes(error: OperationFailure) -> set[Any]:
    details = error.details or {}
    parts = [details, details.get("writeConcernError") or {}]
    parts += [*details.get("writeErrors", ()), *details.get("writeConcernErrors", ())]
    return {error.code, *(part.get("code") for part in parts)}


def _of_codes(codes: set[Any], *, opening: bool) -> Exception:
    if codes & AUTHENTICATION:
        if opening:
            return ConfigError("MongoDB refuses the user name or the password, or the user may not use this database.")
        return StorageUnavailable("MongoDB refuses the credentials of this server.")
    if codes & _FULL:
        return StorageFull("No space is left in MongoDB.", retry_after_seconds=60)
    if codes & _PASSING:
        return StorageUnavailable("MongoDB is busy, starting, or has no primary now.")
    return StorageError("MongoDB refused an operation.")
