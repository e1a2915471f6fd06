"""What the operating system says about a disk, in our words."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from dicomweb_server.errors import StorageFull, StorageUnavailable

FULL_RETRY_SECONDS = 60

_FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


@contextmanager
def disk_errors() -> Iterator[None]:
    """Around the reading and writing of files, staged ones too: OSError becomes StorageFull or StorageUnavailable."""
    try:
        yield
    except OSError as exc:
        if exc.errno in _FULL:
            raise StorageFull("no space is left for files", retry_after_seconds=FULL_RETRY_SECONDS) from exc
        raise StorageUnavailable("the files cannot be read or written now") from exc
