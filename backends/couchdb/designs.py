"""The design documents: the views that every answer is read from.

CouchDB brings all views of one design document up to date together, and gives every document that has changed to the
JavaScript of each design document once. So there are few of them: what reading and storing need at once is apart from
what only searches, the change feed and housekeeping read, and no more than that.
"""

import json
from collections.abc import Mapping
from typing import Any

Views = Mapping[str, tuple[str, str | None]]

PIECES = ("00100010", "00100020", "00080050", "00081030")
"""The attributes of studies in which a text is found wherever it stands without looking through all values: those for
which viewers send `*x*`. Each costs a row for every second of its characters."""

PIECE_DIGITS = 16
"""How many hex digits of a piece stand in its key."""


# Headers: the distinct headers of each series, with how many instances have each and which came first.
# Counts: the instances of each series, and so of a study. Its keys hold nothing else, as CouchDB takes only whole keys
# when it is asked for the totals of many at once.
# Instances in their order. What an open removal names comes first in its series (null sorts first), so that who reads
# on sees none of it. `_id` (of nothing) keeps `include_docs` from giving the whole intent with each of its rows.
# History: an entry [number, kind, study, series] stays with the instance as long as it lives, then with its record of
# removal. The value 0 marks what is there now.
_LIVE: Views = {
    "headers": (
        """function (doc) {
            if (doc.type === "instance") emit([doc.study, doc.series, doc.header], doc.seq);
        }""",
        "_stats",
    ),
    "counts": (
        """function (doc) {
            if (doc.type === "instance") emit([doc.study, doc.series], null);
        }""",
        "_count",
    ),
    "instances": (
        """function (doc) {
            if (doc.type === "instance")
                emit([doc.study, doc.series, doc.position, doc.uid], null);
            else if (doc.type === "intent")
                doc.items.forEach(function (item) {
                    emit([item.study, item.series, null, item.uid], {_id: "none", attempt: item.attempt});
                });
        }""",
        None,
    ),
    "history": (
        """function (doc) {
            if (!doc.entries) return;
            doc.entries.forEach(function (entry) { emit([entry[2], entry[3], doc.uid], entry[0]); });
            if (doc.type === "instance") emit([doc.study, doc.series, doc.uid], 0);
        }""",
        "_stats",
    ),
}

_CONFLICTS: Views = {
    "conflicts": ("""function (doc) { if (doc._conflicts) emit(doc._id, doc._conflicts); }""", None),
}

# Usage: instances, older versions and the bin with the sizes of their files: of all, and of each series.
# Binned: the bin in the order of removal: all of it, of a study, series or instance. Purging, purged: what leaves it
# for good, and what has left it.
# Stored and replaced are read to move an archive: instances in the order of storing, older versions in that of being
# replaced.
_REST: Views = {
    "feed": (
        """function (doc) {
            if (!doc.entries) return;
            doc.entries.forEach(function (entry) { emit([entry[0], doc.uid], entry.slice(1)); });
        }""",
        "_count",
    ),
    "usage": (
        """function (doc) {
            if (doc.type !== "instance" && doc.type !== "replaced" && doc.type !== "binned") return;
            if (doc.purging) return;
            var modality = (JSON.parse(doc.summary)["00080060"] || {}).Value;
            var rest = [modality && modality[0] || "", doc.transfer_syntax];
            emit([doc.type, 0].concat(rest), doc.blob.size);
            emit([doc.type, 1, doc.study, doc.series].concat(rest), doc.blob.size);
        }""",
        "_stats",
    ),
    "blobs": (
        """function (doc) {
            if (doc.type === "released") emit(doc.blob, [doc._id, doc._rev]);
            else if (doc.blob) {
                emit(doc.blob.key, null);
                if (doc.layout_blob) emit(doc.layout_blob, null);
            }
        }""",
        None,
    ),
    "released": ("""function (doc) { if (doc.type === "released") emit([doc.seq, doc.blob], null); }""", None),
    "binned": (
        """function (doc) {
            if (doc.type !== "binned" || doc.purging) return;
            var rest = [doc.binned_at, doc.uid + "-" + doc.life];
            emit(["all", ""].concat(rest), null);
            emit(["study", doc.study].concat(rest), null);
            emit(["series", doc.series].concat(rest), null);
            emit(["instance", doc.uid].concat(rest), null);
        }""",
        None,
    ),
    "purging": ("""function (doc) { if (doc.purging) emit(null, null); }""", None),
    "purged": ("""function (doc) { if (doc.type === "purged") emit(doc.purged_at, doc._rev); }""", None),
    "stored": ("""function (doc) { if (doc.type === "instance") emit([doc.seq, doc.uid], null); }""", None),
    "replaced": ("""function (doc) { if (doc.type === "replaced") emit([doc.replaced_at, doc._id], null); }""", None),
    **_CONFLICTS,
}

# What Python computed stands in the documents: `terms` the values to find an entity by, `orders` its place in each
# order, `scans` the attributes to look through: their values stand in the rows of the default order of each level.
# A series has no value that none of its headers has: it is found by theirs, which stand in the order of series.
# Pieces: of some attributes of studies what stands from every second character on, so that a text inside a value is
# found as the beginning of a piece, with its first character or without that. The value is the character before.
_SEARCH: Views = {
    "terms": (
        """function (doc) {
            if (!doc.terms || doc.level === "series") return;
            var sort = doc.level === "header" ? [doc.series, doc.study] : doc.sort;
            for (var tag in doc.terms)
                doc.terms[tag].forEach(function (value) { emit([doc.level, tag, value, doc.place, sort], null); });
        }""",
        None,
    ),
    "pieces": (
        """function (doc) {
            if (doc.level === "study") TAGS.forEach(function (tag) {
                var seen = {};
                (doc.terms[tag] || []).forEach(function (value) {
                    var before = "", even = true;
                    for (var start = 0, end; start < value.length; start = end) {
                        end = start + 2;
                        while (end < value.length && value.charAt(end) >= "8" && value.charAt(end) <= "b") end += 2;
                        var piece = value.substr(start, DIGITS);
                        if (even && !seen[before + " " + piece]) {
                            seen[before + " " + piece] = true;
                            emit([tag, piece, doc.place, doc.sort], before);
                        }
                        before = value.substring(start, end);
                        even = !even;
                    }
                });
            });
        }""".replace("TAGS", json.dumps(PIECES)).replace("DIGITS", str(PIECE_DIGITS)),
        None,
    ),
    "orders": (
        """function (doc) {
            if (!doc.orders) return;
            var first = doc.level === "study" ? "newest" : "uid", values = {};
            doc.scans.forEach(function (tag) { if (doc.terms[tag]) values[tag] = doc.terms[tag]; });
            doc.orders.forEach(function (order) {
                emit([doc.level].concat(order), order[0] === first ? values : null);
            });
        }""",
        "_count",
    ),
}

# What the studies of a patient bring: distinct headers, modalities and so on, with the earliest place of each.
_PATIENTS: Views = {
    "patients": (
        """function (doc) {
            if (doc.level !== "study") return;
            doc.brings.forEach(function (item) { emit([doc.patient, item[0], item[1]], item[2]); });
        }""",
        "_stats",
    ),
    "studies": (
        """function (doc) {
            if (doc.level === "study") emit(doc.patient, [doc.uid, doc.listed]);
        }""",
        None,
    ),
    **_CONFLICTS,
}

_DOCUMENTS: Views = {
    "current": (
        """function (doc) {
            if (doc.type !== "current" || doc.deleted) return;
            emit([doc.kind, "", doc.sort], null);
            for (var key in doc.terms)
                doc.terms[key].forEach(function (value) { emit([doc.kind, key, value, doc.sort], null); });
        }""",
        None,
    ),
}

RECORDS: Mapping[str, Views] = {"live": _LIVE, "rest": _REST}
ENTITIES: Mapping[str, Views] = {"search": _SEARCH, "patients": _PATIENTS}
DOCUMENTS: Mapping[str, Views] = {"documents": _DOCUMENTS}
BLOBS: Mapping[str, Views] = {}

FORMER = frozenset(
    f"_design/{name}"
    for name in (
        "lists",
        "history",
        "blobs",
        "bin",
        "moving",
        "usage",
        "conflicts",
        "terms",
        "values",
        "scans",
        "orders",
    )
)
"""Those that were there before this format of the views, and are deleted."""


IN_STEPS = frozenset(("search", "rest"))
"""What nobody reads while much is stored. CouchDB would bring them up to date after each write, which costs
several times as much as doing so once after many (`Database.write`)."""


def design_documents(designs: Mapping[str, Views]) -> list[dict[str, Any]]:
    """The documents as CouchDB takes them."""
    return [
        {
            "_id": f"_design/{name}",
            "language": "javascript",
            "autoupdate": name not in IN_STEPS,
            "views": {
                view: {"map": code} if reduce is None else {"map": code, "reduce": reduce}
                for view, (code, reduce) in views.items()
            },
        }
        for name, views in designs.items()
    ]


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two design documents define the same views, kept up to date in the same way."""
    return all(
        json.dumps(one.get(name), sort_keys=True) == json.dumps(other.get(name), sort_keys=True)
        for name in ("views", "autoupdate")
    )
