"""`dicomweb-server import`: folders and zips into the archive, in several processes."""

import argparse
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from dicomweb_server.commands.interrupt import Interrupt
from dicomweb_server.commands.progress import MEGABYTE, Pace, ProgressLine, bar
from dicomweb_server.commands.workers import Workers
from dicomweb_server.errors import BadRequest, StorageError
from dicomweb_server.opening import check_linking, import_parts, ingest_of, open_parts
from dicomweb_server.services.imports import BatchOutcome, Fate, FileOutcome, Importer, Summary, batches
from dicomweb_server.services.journal import Journal
from dicomweb_server.services.sources import Source, Unreadable, walk
from dicomweb_server.settings import Settings, processors

EXAMPLE = "import /media/cdrom /srv/old-archive.zip --data /srv/dicom --jobs 4"
NOTES = """\
Folders are read with all below them, zips with all in them, also zips in zips. What is no DICOM file there is skipped;
a file that is named itself and is none is refused.
Instances that are stored already are not stored again. The servers of the archive may run meanwhile.

With --link the archive reads the files where they are. They must stay there unchanged; it never moves or deletes them.

Every outcome is written to a journal: lines of JSON, in the folder of the data or where --log says. With --resume files
that the journal of the same paths calls done are not even read. After an interruption, run the same command with
--resume: nothing that was stored is lost or stored twice.

Exit status: 0 all instances are in the archive, 3 some files were refused (the summary says why, the journal which),
1 it stopped, 2 wrong usage, 130 interrupted."""
REFUSED_STATUS = 3
MAX_JOBS = 64
_FILE_WEIGHT_BYTES = 1 << 16  # what a file costs besides its bytes
_REASONS_SHOWN = 10


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe what the command takes."""
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.description = f"{command.description}\n\n{NOTES}"
    command.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a folder, a zip or a DICOM file")
    command.add_argument("--link", action="store_true", help="index the files where they are, without copying them")
    command.add_argument("--resume", action="store_true", help="skip what an earlier run of the same paths has done")
    command.add_argument("--jobs", type=_jobs, metavar="N", help="processes (two per processor up to 8, one above)")
    command.add_argument("--log", type=Path, metavar="FILE", help="where to write the journal (JSON, one line a file)")


def _jobs(text: str) -> int:
    number = int(text)
    if not 1 <= number <= MAX_JOBS:
        raise argparse.ArgumentTypeError(f"must be from 1 to {MAX_JOBS}")
    return number


def _usual_jobs() -> int:
    """Half of them wait for the disk, as long as they are few."""
    return max(processors(), min(2 * processors(), 8))


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Import; gives the exit status. Raises DicomwebError."""
    for path in options.paths:
        if not path.exists():
            raise BadRequest(f"There is no {path}.")
    paths = [os.path.abspath(path) for path in options.paths]
    if options.link:
        check_linking(settings)
    place = options.log or _journal_of(settings, paths)
    import_parts(settings)
    # The processes begin before anything else is open.
    with (
        Workers(options.jobs or _usual_jobs(), lambda: _importer(settings, link=options.link)) as workers,
        Journal(place, resume=options.resume) as journal,
        ProgressLine() as line,
        Interrupt() as interrupt,
    ):
        work = _Import(paths, journal, line, interrupt)
        try:
            work.run(workers)
        except (StorageError, KeyboardInterrupt):
            line.end()
            print(f"Not complete: {summary_words(work.summary)}.")
            print(f"Run the same command with --resume to go on. Journal: {place}")
            raise
    _print_summary(work, place)
    return REFUSED_STATUS if work.summary.fates[Fate.REFUSED] else 0


def _journal_of(settings: Settings, paths: Sequence[str]) -> Path:
    name = hashlib.sha256("\0".join(paths).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return settings.storage.directory.absolute() / "imports" / f"{name}.jsonl"


def _importer(settings: Settings, *, link: bool) -> Callable[[Sequence[Source]], BatchOutcome]:
    return Importer(ingest_of(settings, *open_parts(settings)), link=link, read_soon=False).run


class _Import:
    def __init__(self, paths: Sequence[str], journal: Journal, line: ProgressLine, interrupt: Interrupt) -> None:
        self.summary = Summary()
        self.done_before = 0
        self._paths = paths
        self._journal = journal
        self._line = line
        self._interrupt = interrupt
        self._pace = Pace()
        self._weight = 0
        self._total = _Total(paths, journal)

    def run(self, workers: Workers[Sequence[Source], BatchOutcome]) -> None:
        """Hand out batches and note what comes back."""
        self._total.start()
        try:
            for outcome in workers.results(batches(self._sources())):
                if outcome is not None:
                    self._note(outcome)
                self._line.tell(self._text)
                self._interrupt.check()
        finally:
            self._total.stop()
            for outcome in workers.rest():  # what was begun ends, and is noted: it need not be read again
                self._note(outcome)

    def _sources(self) -> Iterator[Source]:
        for found in walk(self._paths):
            self._interrupt.check()
            if isinstance(found, Unreadable):
                outcome = FileOutcome(name=found.name, fate=Fate.REFUSED, reason=found.reason)
                self.summary.add_file(outcome)
                self._journal.write([outcome])
            elif self._journal.is_done(found):
                self.done_before += 1
            else:
                yield found

    def _note(self, batch: BatchOutcome) -> None:
        self._journal.write(batch.files, batch.done)
        self.summary.add(batch)
        self._weight += batch.size_bytes + _FILE_WEIGHT_BYTES * batch.sources

    def _text(self) -> str:
        done, total = self.summary.sources, self._total
        rate = f"{self._pace.per_second(done):.0f} files/s, {self.summary.size_bytes / MEGABYTE:.0f} MB"
        if not total.complete:
            return f"{done} files of at least {total.sources} ({rate})"
        left = self._pace.left(self._weight, total.weight)
        return f"{bar(self._weight, total.weight)} {done} of {total.sources} files ({rate}{left})"


class _Total(threading.Thread):
    """Counts in the background what there is to do."""

    def __init__(self, paths: Sequence[str], journal: Journal) -> None:
        super().__init__(daemon=True)
        self.sources = 0
        self.weight = 0
        self.complete = False
        self._paths = paths
        self._journal = journal
        self._ended = threading.Event()

    def run(self) -> None:
        for found in walk(self._paths):
            if self._ended.is_set():
                return
            if isinstance(found, Source) and not self._journal.is_done(found):
                self.sources += 1
                self.weight += found.size_bytes + _FILE_WEIGHT_BYTES
        self.complete = True

    def stop(self) -> None:
        self._ended.set()
        self.join()


def summary_words(summary: Summary) -> str:
    """The counts, as a line begins."""
    counts = summary.fates
    parts = [f"{counts[Fate.STORED]} stored", f"{counts[Fate.SAME]} were there already"]
    if counts[Fate.REPLACED]:
        parts.append(f"{counts[Fate.REPLACED]} replaced others")
    parts.append(f"{counts[Fate.REFUSED]} refused")
    if counts[Fate.SKIPPED]:
        parts.append(f"{counts[Fate.SKIPPED]} files skipped that are no instances")
    return ", ".join(parts)


def _print_summary(work: _Import, place: Path) -> None:
    print(f"{summary_words(work.summary)}.")
    if work.done_before:
        print(f"{work.done_before} files were done before.")
    for reason, count in work.summary.reasons.most_common(_REASONS_SHOWN):
        print(f"  refused {count}: {reason}")
    if len(work.summary.reasons) > _REASONS_SHOWN:
        print(f"  and {len(work.summary.reasons) - _REASONS_SHOWN} other reasons")
    print(f"Journal: {place}")
