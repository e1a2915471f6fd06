"""What is put right when an archive is opened: work of processes that died, and the two winners of a split cluster; and
what a failure left half-way in this process."""

from backends.couchdb import keys
from backends.couchdb import records as documents
from backends.couchdb.database import Database, Json
from backends.couchdb.derive import Deriver
from backends.couchdb.inflight import InFlight
from backends.couchdb.removal import Removal


class Repair:
    """Everything in it may be done by several processes at once, and again."""

    def __init__(
        self,
        records: Database,
        archive: Database,
        deriver: Deriver,
        inflight: InFlight,
        removal: Removal,
        clock: keys.Clock,
    ) -> None:
        self._records = records
        self._archive = archive
        self._deriver = deriver
        self._inflight = inflight
        self._removal = removal
        self._clock = clock

    def run(self) -> None:
        """Finish removals, derive the studies that others were writing to, settle conflicts."""
        self._removal.resume()
        for writer in self._inflight.abandoned():
            for study in writer["studies"]:
                self._deriver.settle_all(study)
            self._inflight.forget(writer)
        self._settle_instances()
        self._settle_archive()

    def finish(self, study_uid: str) -> None:
        """Finish what a failure of this process left half-way in a study."""
        self._removal.finish(study_uid)
        self._deriver.settle_all(study_uid)
        self._deriver.settle_left_patients()

    def _settle_instances(self) -> None:
        """Nodes that were cut off from each other may both have taken a writer. CouchDB shows the same one of them
        everywhere; that one stays, and the others become older versions of the instance, where they can be restored
        from."""
        for row in self._records.view("rest/conflicts"):
            current = self._records.get(row["id"])
            if current is None:
                continue
            losers = [loser for rev in row["value"] if (loser := self._revision(row["id"], rev))]
            if current["type"] == "instance":
                versions = [each for each in losers if each["attempt"] != current["attempt"]]
                now = self._clock.next(after=documents.last_entry(current))
                self._records.write([_kept(each, current, now) for each in versions])
            self._records.delete(losers)
            for each in [current, *losers] if current["type"] == "instance" else []:
                self._deriver.settle_all(each["study"])

    def _settle_archive(self) -> None:
        """What is derived is derived again."""
        studies: set[str] = set()
        for row in self._archive.view("patients/conflicts"):
            self._archive.delete({"_id": row["id"], "_rev": rev} for rev in row["value"])
            document = self._archive.get(row["id"])
            if document is not None and document["level"] in ("study", "series"):
                studies.add(document["uid"] if document["level"] == "study" else document["study"])
            elif document is not None and document["level"] == "patient":
                studies |= {each["value"][0] for each in self._archive.view("patients/studies", key=document["uid"])}
        for study in studies:
            self._deriver.settle_all(study)

    def _revision(self, document_id: str, revision: str) -> Json | None:
        return self._records.get(document_id, rev=revision)


def _kept(loser: Json, current: Json, now: int) -> Json:
    """A losing version as an older one of the instance, with what happened to it alone."""
    entries = [entry for entry in loser["entries"] if entry not in current["entries"]]
    return {**documents.replaced_document(loser, now), "life": current["seq"], "entries": entries}
