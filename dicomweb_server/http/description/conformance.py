"""The DICOM conformance statement (PS3.2) as Markdown: from the route table, the codecs that are installed, and the
tables of attributes and character sets."""

from collections.abc import Iterable, Iterator, Sequence

from pydicom._uid_dict import UID_dictionary
from pydicom.uid import UID

from dicomweb_server import __version__
from dicomweb_server.codec.syntaxes import COMPRESSED, decodable, encodable, name_of
from dicomweb_server.dicom.attributes import RETURNED, keyword_of
from dicomweb_server.dicom.charset import CHARACTER_SETS
from dicomweb_server.dicom.levels import Level
from dicomweb_server.dicom.media import OCTET_STREAM, SYNTAX_MEDIA
from dicomweb_server.http.routes import DICOMWEB
from dicomweb_server.http.table import Operation, Route
from dicomweb_server.permissions import Permission

_SERVICES = {
    Permission.SEARCH: ("Search (QIDO-RS)", "PS3.18 10.6"),
    Permission.STORE: ("Store (STOW-RS)", "PS3.18 10.5"),
    Permission.RETRIEVE: ("Retrieve (WADO-RS, WADO-URI)", "PS3.18 10.4 and 9"),
    Permission.DELETE: ("Delete", "extension"),
    Permission.PUBLIC: ("Capabilities and description", "PS3.18 8.9, otherwise extensions"),
}
_INTRODUCTION = """\
Version {version}. An image archive with the web services of DICOM PS3.18. It is the origin server of these; the Base
URIs are {places} of its address. Made by `dicomweb-server conformance` from the tables that the server runs on."""
_SOP_CLASSES = """\
Instances of every SOP class are stored, found and retrieved unchanged, private and retired ones too. Those of the data
dictionary:"""
_TRANSFER_SYNTAXES = """\
Files are kept in the transfer syntax in which they are stored, whichever that is. Frames and files are given in it, or
converted where Accept asks for another. With what is installed here:"""
_CHARACTER_SETS = """\
Read: {sets}. Files keep theirs; metadata and answers are in UTF-8 (`ISO_IR 192`)."""
_QUERY_KEYS = """\
Every attribute matches by its keyword or tag, at each level. An answer has these, those of includefield, and the ones
that the server computes (PS3.18 tables 10.6.3-3 to 10.6.3-5)."""
_SECURITY = """\
HTTP/1.1; TLS by settings, or by a proxy in front. Without a login configured the server listens on its own machine,
unless the settings say otherwise by name. With one, who asks is known by a bearer token, an API key, HTTP Basic or a
session cookie; each request needs the permission that stands with its service above, and rules can keep studies from
users. Audit messages follow PS3.15 A.5."""
_LEVELS = (Level.PATIENT, Level.STUDY, Level.SERIES, Level.INSTANCE)
_RULES = (
    ("Single value", "equal; without regard to case for names and texts"),
    ("Wildcard", "`*` and `?`"),
    ("Universal", "an empty value, or the attribute in includefield"),
    ("List of UIDs", "separated by commas or backslashes"),
    ("Range", "`low-high`, `low-` or `-high` for dates, times and both together"),
    ("Fuzzy", "`fuzzymatching=true` for names"),
    ("Empty value", "`emptyvaluematching=true`"),
    ("Multiple values", "`multiplevaluematching=true`"),
    ("Sequence", "a path of keywords or tags with dots"),
)


def conformance(*, prefixes: Sequence[str]) -> str:
    """The statement of an archive whose DICOMweb routes stand below these prefixes."""
    return "\n".join(_lines(prefixes)) + "\n"


def _lines(prefixes: Sequence[str]) -> Iterator[str]:
    places = ", ".join(f"`{prefix or '/'}`" for prefix in prefixes)
    classes = _table(("SOP class", "UID"), _storage_classes())
    syntaxes = _table(("Transfer syntax", "Frames as", "Decoded", "Encoded"), _syntaxes())
    sets = ", ".join(f"`{name}`" for name in CHARACTER_SETS)
    keys = _table(("Level", "Attributes"), ((level.name.capitalize(), _keywords(level)) for level in _LEVELS))
    yield "# DICOM conformance statement: dicomweb-server"
    yield from ("", _INTRODUCTION.format(version=__version__, places=places), "", "## Services")
    for permission in Permission:
        yield from _service(permission)
    yield from ("", "## SOP classes", "", _SOP_CLASSES, "", *classes)
    yield from ("", "## Transfer syntaxes", "", _TRANSFER_SYNTAXES, "", *syntaxes)
    yield from ("", "## Character sets", "", _CHARACTER_SETS.format(sets=sets))
    yield from ("", "## Security", "", _SECURITY)
    yield from ("", "## Query keys", "", _QUERY_KEYS, "", *keys, "", *_table(("Matching", "How"), _RULES))


def _service(permission: Permission) -> Iterator[str]:
    rows = [
        row
        for entry in DICOMWEB
        for method, operation in entry.operations.items()
        if operation.permission is permission
        for row in [_row(entry, method, operation)]
    ]
    if not rows:
        return
    title, source = _SERVICES.get(permission, (f"Further services: {permission}", "extensions"))
    yield ""
    yield f"### {title}"
    yield ""
    yield f"Part of the standard: {source}. Permission: `{permission}`."
    yield ""
    yield from _table(("Transaction", "Request", "Takes", "Gives", "Query parameters"), rows)


def _row(entry: Route, method: str, operation: Operation) -> tuple[str, ...]:
    names = (parameter.name for parameter in operation.query)
    return (
        operation.summary,
        f"`{method} {entry.template}`",
        _codes(operation.takes),
        _codes(operation.gives),
        _codes(names),
    )


def _codes(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _storage_classes() -> list[tuple[str, str]]:
    found = [
        (name, f"`{uid}`")
        for uid, (name, kind, _, retired, _) in UID_dictionary.items()
        if kind == "SOP Class" and not retired and " Storage" in name and "Commitment" not in name
    ]
    return sorted(found)


def _syntaxes() -> Iterator[tuple[str, str, str, str]]:
    for uid in (*(one for one in SYNTAX_MEDIA if one not in COMPRESSED), *COMPRESSED):
        known = UID(uid)
        label = f"{known.name} ({uid})" if known.name != uid else name_of(uid)
        media = SYNTAX_MEDIA.get(uid, OCTET_STREAM)
        yield label, f"`{media}`", _yes(decodable(uid)), _yes(encodable(uid))


def _yes(what: bool) -> str:
    return "yes" if what else "no"


def _keywords(level: Level) -> str:
    return ", ".join(keyword_of(tag) or tag for tag in RETURNED[level])
