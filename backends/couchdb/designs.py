"""The design documents: the views that every answer is read from.

Views are grouped by who reads them, because CouchDB brings all views of one design document up to date together: what
the store reads after each write is kept apart from what only searches or the change feed need.
"""

import json
from collections.abc import Mapping
from typing import Any

Views = Mapping[str, tuple[str, str | None]]

PIECES = ("00100010", "00100020", "00080050", "00081030")
"""The attributes of studies in which a text is found wherever it stands without looking through all values: those for
which viewers send `*x*`. Each costs a row for each of its characters."""

PIECE_DIGITS = 16
"""How many hex digits of a piece stand in its key."""


# Headers: the distinct headers of each series, with how many instances have each and which came first. Counts: the
# instances of a study and of a series.
_LIVE: Views = {
    "headers": (
        """function (doc) {
            if (doc.type === "instance") emit([doc.study, doc.series, doc.header], doc.seq);
        }""",
        "_stats",
    ),
    "counts": (
        """function (doc) {
            if (doc.type === "instance") { emit([doc.study], null); emit([doc.study, doc.series], null); }
        }""",
        "_count",
    ),
}

# Instances in their order. What an open removal names comes first in its series (null sorts first), so that who reads
# on sees none of it. `_id` (of nothing) keeps `include_docs` from giving the whole
# intent with each of its rows.
_LISTS: Views = {
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
}

# An entry [number, kind, study, series] stays with the instance as long as it lives, then with its record of removal.
# The value 0 in `history` marks what is there now.
_HISTORY: Views = {
    "history": (
        """function (doc) {
            if (!doc.entries) return;
            doc.entries.forEach(function (entry) { emit([entry[2], entry[3], doc.uid], entry[0]); });
            if (doc.type === "instance") emit([doc.study, doc.series, doc.uid], 0);
        }""",
        "_stats",
    ),
    "feed": (
        """function (doc) {
            if (!doc.entries) return;
            doc.entries.forEach(function (entry) { emit([entry[0], doc.uid], entry.slice(1)); });
        }""",
        "_count",
    ),
}

# Instances, older versions and the bin with the sizes of their files: of all, of a study, of a series.
_USAGE: Views = {
    "usage": (
        """function (doc) {
            if (doc.type !== "instance" && doc.type !== "replaced" && doc.type !== "binned") return;
            if (doc.purging) return;
            var modality = (JSON.parse(doc.summary)["00080060"] || {}).Value;
            var rest = [modality && modality[0] || "", doc.transfer_syntax];
            emit([doc.type, 0].concat(rest), doc.blob.size);
            emit([doc.type, 1, doc.study].concat(rest), doc.blob.size);
            emit([doc.type, 2, doc.study, doc.series].concat(rest), doc.blob.size);
        }""",
        "_stats",
    ),
}

_BLOBS: Views = {
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
}

# The bin in the order of removal: all of it, of a study, series or instance; what is being purged, and what was.
_BIN: Views = {
    "entries": (
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
}

# What is read to move an archive: instances in the order of storing, older versions in that of being replaced.
_MOVING: Views = {
    "instances": ("""function (doc) { if (doc.type === "instance") emit([doc.seq, doc.uid], null); }""", None),
    "replaced": ("""function (doc) { if (doc.type === "replaced") emit([doc.replaced_at, doc._id], null); }""", None),
}

_CONFLICTS: Views = {
    "conflicts": ("""function (doc) { if (doc._conflicts) emit(doc._id, doc._conflicts); }""", None),
}

# What Python computed stands in the documents: `terms` the values to find an entity by, `scan` those to look through,
# `orders` its place in each order.
_SEARCH: Views = {
    "terms": (
        """function (doc) {
            if (!doc.terms) return;
            for (var tag in doc.terms)
                doc.terms[tag].forEach(function (value) { emit([doc.level, tag, value, doc.place, doc.sort], null); });
        }""",
        "_count",
    ),
}
# The same for lists of values, which one request takes as `keys`.
_VALUES: Views = {
    "values": (
        """function (doc) {
            if (!doc.terms) return;
            for (var tag in doc.terms)
                doc.terms[tag].forEach(function (value) { emit([doc.level, tag, value], [doc.place, doc.sort]); });
        }""",
        None,
    ),
}
# The values to look through, in the order of their entities; and of some attributes each piece: what stands from a
# character on, so that a text inside a value is found as the beginning of a piece.
_SCANS: Views = {
    "scans": (
        """function (doc) {
            if (!doc.scans) return;
            doc.scans.forEach(function (tag) {
                if (doc.terms[tag]) emit([doc.level, tag, doc.place, doc.sort], doc.terms[tag]);
            });
            if (doc.level === "study") PIECES.forEach(function (tag) {
                var seen = {};
                (doc.terms[tag] || []).forEach(function (value) {
                    for (var start = 0; start < value.length; start += 2) {
                        var first = value.charAt(start), piece = value.substr(start, PIECE_DIGITS);
                        if ((first >= "8" && first <= "b") || seen[piece]) continue;
                        seen[piece] = true;
                        emit([doc.level, tag + "p", piece, doc.place, doc.sort], null);
                    }
                });
            });
        }""".replace("PIECES", json.dumps(PIECES)).replace("PIECE_DIGITS", str(PIECE_DIGITS)),
        None,
    ),
}
_ORDERS: Views = {
    "orders": (
        """function (doc) {
            if (!doc.orders) return;
            doc.orders.forEach(function (order) { emit([doc.level].concat(order), null); });
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
            if (doc.level === "study") emit(doc.patient, [doc.uid, doc.numbers.series]);
        }""",
        None,
    ),
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

RECORDS: Mapping[str, Views] = {
    "live": _LIVE,
    "lists": _LISTS,
    "history": _HISTORY,
    "blobs": _BLOBS,
    "bin": _BIN,
    "moving": _MOVING,
    "usage": _USAGE,
    "conflicts": _CONFLICTS,
}
ENTITIES: Mapping[str, Views] = {
    "terms": _SEARCH,
    "values": _VALUES,
    "scans": _SCANS,
    "orders": _ORDERS,
    "patients": _PATIENTS,
    "conflicts": _CONFLICTS,
}
DOCUMENTS: Mapping[str, Views] = {"documents": _DOCUMENTS, "conflicts": _CONFLICTS}
BLOBS: Mapping[str, Views] = {}


def design_documents(designs: Mapping[str, Views]) -> list[dict[str, Any]]:
    """The documents as CouchDB takes them."""
    return [
        {
            "_id": f"_design/{name}",
            "language": "javascript",
            "views": {
                view: {"map": code} if reduce is None else {"map": code, "reduce": reduce}
                for view, (code, reduce) in views.items()
            },
        }
        for name, views in designs.items()
    ]


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two design documents define the same views."""
    return json.dumps(one.get("views"), sort_keys=True) == json.dumps(other.get("views"), sort_keys=True)
