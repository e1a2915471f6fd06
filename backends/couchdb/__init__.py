"""CouchDB as storage and as blob store, over the `couchdb` package and a session of our own (`session`).

Needs CouchDB 3.3, alone or clustered. Databases: `<name>` with the instances, their older versions, removals and the
release queue; `<name>-archive` with what is derived from them; `<name>-documents`; `<name>-blobs`. Apart, so that the
views of one do not run over the documents of another.

What a reader sees, and why it is right
    CouchDB has no transaction over documents. An instance is one document (`instance:` and its UID), and creating or
    changing that is what commits: a second writer gets 409. It holds its record, its ready-made metadata, its place
    in the order of storing (`seq`) and its history for the change feed, so that these are never apart.

    Totals come from reduce views over the instances only, both totals of a study from one read, so that they fit
    each other. CouchDB brings a view up to date before it answers, so a reader after `store` counts its instances.

    Documents of studies, series and patients hold what no view can give: merged attributes, sets, and the values to
    search and order by. They are written when these change, not for every instance. `Deriver.settle` reads the
    document, *then* the distinct headers of the instances (a reduce view: for each series and header the number and
    the first place), derives, and writes with the revision it has read. `store` returns after that.

    Interleavings. Let a writer's instance be there before its settle. If its settle writes, or finds nothing to
    write, the document reflects a read of the view that had the instance. Another settle that began earlier and read
    the view before the instance was there holds an older revision: either it wrote before ours read (then ours sees
    the difference), or its write gets 409 and it starts over. So the last document written saw every instance whose
    `store` has returned. Removal is the same, from the other side. "Nothing to write" is told by a mark: a hash of the
    series, headers and first places that the document was derived from. A header that vanishes and comes back has
    another first place, so that the mark never lies. The patient is settled every time, also when the study was
    found as it should be: another writer may have written the study, but not yet its patient.

    Killed processes. Before it writes, a process names the studies it writes to in its entry (`inflight`); before it
    removes, it writes down what (`removal`). `open` of any process derives those studies again and finishes the
    removals. Until then an instance that nobody has acknowledged may be there without its study. Storing it again
    (SAME) settles too. Every step can be repeated by several at once.

    Failures. What a broken connection left half-way is finished by the same process, in a thread, as soon as CouchDB
    answers again (`mending`).

    Lost answers. Requests are sent again once after a broken connection. Each document carries the name of the
    attempt that wrote it, so that a 409 caused by one's own first try is told from another's write.

    Order. `seq` is the time of this machine in microseconds, never the same twice in a process. A counter in the
    database would be one document that every store writes. What is stored at the same time on two machines is ordered
    by their clocks, which should be kept by NTP.

    Headers (`header:`) are kept once for all instances of a series that share them, and are written with what is
    derived from them. They can always be made again from an instance, so that removing a study removes them, whatever
    is being stored at the same time.

    Replacing writes the older version first, as a document that readers pass over while it names the current attempt;
    then the instance. `_conflicts`, which cut-off nodes of a cluster leave behind, are settled by one rule (`repair`):
    the revision that CouchDB shows everywhere stays, the others become older versions.

    A write that a cluster took on too few nodes is no acknowledgement: it is taken back, or made safe (`quorum`). What
    is told to be there already is made safe too. A view on a cluster with several copies is read from one of them, and
    may lack a write of the last moments; use n=1, or read through one node, where totals must be exact to the instant.

Searching
    Values are kept in keys as hex digits (`keys`), because CouchDB compares text as a language does. Views, not Mango:
    an index of Mango holds an array as one value and cannot find one of several names or modalities, and it sorts all
    keys the same way, while studies are listed by date downwards with the missing ones last. `sources` chooses the
    ranges of one term; the documents found are compared with all terms by `dicom.matching`. Without a bookmark:
    pages begin at the key where the last one ended.

    CouchDB brings a view up to date when it is read, so that a search sees what was stored before it. There are few
    design documents, because each costs a pass over all that was written, and few rows, because each costs writing to a
    tree; most of that when few documents are taken at once. The views that only searches read are therefore brought
    up to date in steps while much is stored. Who reads a view that is far behind waits, longer than one answer may take
    if it must be (`database`).
"""

from backends.couchdb.blobs import CouchBlobStore
from backends.couchdb.storage import CouchStorage

__all__ = ["CouchBlobStore", "CouchStorage"]
