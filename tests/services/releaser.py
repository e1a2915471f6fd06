"""One who releases files as a thread of each server does, with a lease of a second, and who waits for a line on its
standard input before it deletes some: `python -m tests.services.releaser SETTINGS_FILE`."""

import sys
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from dicomweb_server.app import open_parts
from dicomweb_server.errors import VersionConflict
from dicomweb_server.services import lease, release
from dicomweb_server.settings import load

LEASE_SECONDS = 1.0
BATCH = 3


class _Hesitant:
    """A blob store that says what it is about to delete."""

    def __init__(self, blobs: Any) -> None:
        self._blobs = blobs

    def delete(self, *, keys: Iterable[str]) -> None:
        chosen = list(keys)
        print(f"deleting {len(chosen)}", flush=True)
        sys.stdin.readline()
        self._blobs.delete(keys=chosen)


def main() -> int:
    """Until all is released by somebody."""
    lease.LEASE_SECONDS = LEASE_SECONDS
    release.BATCH = BATCH
    storage, blobs = open_parts(load(Path(sys.argv[1]), environ={}))
    with closing(storage), closing(blobs):
        retention = release.Retention(bin_days=7, replaced_days=0)
        releasing = release.Release(storage, _Hesitant(blobs), retention)  # type: ignore[arg-type]
        print("ready", flush=True)
        while storage.released(limit=1):
            try:
                if done := releasing.step():
                    print(f"released {done}", flush=True)
            except VersionConflict:
                print("overtaken", flush=True)
    print("nothing is left", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
