"""Media types on both sides of a request: what Accept asks for, and which of our offers fits best.

The grammar is that of RFC 9110 12.5.1 with the parameters of PS3.18 8.7.4 and 8.7.5, and it is read the way real
clients write it: quotes left out around types with a slash, any case, a parameter given twice, several headers merged
into one."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import MappingProxyType

from dicomweb_server.errors import BadRequest, NotAcceptable

EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
OCTET_STREAM = "application/octet-stream"

MAX_ACCEPT_CHARACTERS = 65_536
MAX_ACCEPT_RANGES = 300

_SYNTAX_ROOT = "1.2.840.10008.1.2"
_SYNTAXES_OF_MEDIA = {
    OCTET_STREAM: ("", ".1", ".1.98", ".1.99", ".2"),
    "image/jpeg": tuple(f".4.{n}" for n in (*range(50, 67), 70)),
    "image/jls": (".4.80", ".4.81"),
    "image/jp2": (".4.90", ".4.91"),
    "image/jpx": (".4.92", ".4.93"),
    "image/jphc": (".4.201", ".4.202", ".4.203"),
    "image/jxl": (".4.110", ".4.111", ".4.112"),
    "image/dicom-rle": (".5",),
    "video/mpeg": (".4.100", ".4.100.1", ".4.101", ".4.101.1"),
    "video/mp4": (*(f".4.{n}{part}" for n in range(102, 107) for part in ("", ".1")), ".4.107", ".4.108"),
}
SYNTAX_MEDIA: Mapping[str, str] = MappingProxyType(
    {_SYNTAX_ROOT + end: media for media, ends in _SYNTAXES_OF_MEDIA.items() for end in ends}
)
"""Transfer syntax to the media type of one of its frames (PS3.18 Table 8.7.3-5). Syntaxes that are not in it travel as
application/octet-stream."""

_TOKEN = r"[!#$%&'*+.^_`|~0-9a-z-]+"  # noqa: S105  the token of RFC 9110 5.6.2
_MEDIA = re.compile(rf"{_TOKEN}/{_TOKEN}")
_QUALITY = re.compile(r"\d{0,3}(?:\.\d{0,20})?")
_ELEMENT_BREAK = re.compile('[",;]')
_PARAMETER_BREAK = re.compile('[";]')
_QUOTED_REST = re.compile(r'[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_ESCAPE = re.compile(r'\\(["\\])')
_NO_PARAMETERS: Mapping[str, str] = MappingProxyType({})


def _split(text: str, breaks: re.Pattern[str]) -> list[list[str]]:
    """Elements (between commas) of pieces (between semicolons); separators inside quotes do not count.

    After a quote that is never closed every further quote is an ordinary character: the reading stays linear.
    """
    elements: list[list[str]] = [[]]
    begin = position = 0
    quotes_pair = True
    while mark := breaks.search(text, position):
        position = mark.end()
        sign = mark.group()
        if sign == '"':
            closed = _QUOTED_REST.match(text, position) if quotes_pair else None
            if closed:
                position = closed.end()
            else:
                quotes_pair = False
            continue
        elements[-1].append(text[begin : mark.start()])
        begin = position
        if sign == ",":
            elements.append([])
    elements[-1].append(text[begin:])
    return elements


def _unquoted(value: str) -> str:
    value = value.strip()
    if len(value) > 1 and value[0] == value[-1] == '"':
        return _ESCAPE.sub(r"\1", value[1:-1])
    return value.strip('"')


def _parameters(pieces: Sequence[str]) -> list[tuple[str, str]]:
    """Names lower-cased, in the order given; pieces without a name are left out."""
    found = []
    for piece in pieces:
        name, _, value = piece.partition("=")
        if name := name.strip().lower():
            found.append((name, _unquoted(value)))
    return found


def parse_media_type(text: str | None) -> tuple[str, dict[str, str]]:
    """The type in lower case and its parameters (names in lower case, of a repeated one the first), for any header of
    the form `value; name=value`. Never raises: ('', {}) for None."""
    pieces = _split(text or "", _PARAMETER_BREAK)[0]
    parameters: dict[str, str] = {}
    for name, value in _parameters(pieces[1:]):
        parameters.setdefault(name, value)
    return pieces[0].strip().strip('"').lower(), parameters


@dataclass(frozen=True, slots=True)
class AcceptRange:
    """One range of an Accept header.

    media: in lower case; of multipart/related its type parameter ('*/*' without one), and then `multipart` is true.
    transfer_syntaxes: in the order given, '*' possible; empty when none was named.
    parameters: all others, of a repeated one the first.
    """

    media: str
    multipart: bool = False
    transfer_syntaxes: tuple[str, ...] = ()
    q: float = 1.0
    parameters: Mapping[str, str] = field(default_factory=lambda: _NO_PARAMETERS)


@dataclass(frozen=True, slots=True)
class Offer:
    """One representation that we can produce; `transfer_syntax` None where none applies (JSON, a rendered picture)."""

    media: str
    transfer_syntax: str | None = None
    multipart: bool = False


_ANYTHING = AcceptRange("*/*")


def parse_accept(text: str | None) -> list[AcceptRange]:
    """The ranges in the client's order. Takes the header, or the percent-decoded value of an `accept` query parameter.

    None or blank is `*/*`. Malformed ranges are skipped, so that nothing usable gives an empty list; a malformed weight
    counts as 1. Raises BadRequest above 65 536 characters or 300 ranges.
    """
    if text is None or not text.strip():
        return [_ANYTHING]
    if len(text) > MAX_ACCEPT_CHARACTERS:
        raise BadRequest(f"the Accept header is longer than {MAX_ACCEPT_CHARACTERS} characters")
    return list(_parsed(text) if len(text) <= 1024 else _parsed.__wrapped__(text))


@lru_cache(maxsize=512)
def _parsed(text: str) -> tuple[AcceptRange, ...]:
    elements = _split(text, _ELEMENT_BREAK)
    if len(elements) > MAX_ACCEPT_RANGES:
        raise BadRequest(f"the Accept header has more than {MAX_ACCEPT_RANGES} media ranges")
    ranges = (_accept_range(pieces) for pieces in elements)
    return tuple(found for found in ranges if found is not None)


def _media_name(text: str) -> str | None:
    # The '+' of a type arrives as a blank from query strings that were not percent-encoded.
    media = text.strip().strip('"').lower().replace(" ", "+")
    if media == "*":  # Java's URLConnection writes '*; q=.2'
        return "*/*"
    return media if _MEDIA.fullmatch(media) else None


def _accept_range(pieces: Sequence[str]) -> AcceptRange | None:
    media = _media_name(pieces[0])
    if media is None:
        return None
    given = _parameters(pieces[1:])
    multipart = media in ("multipart/related", "multipart/*")
    if multipart:
        inner = next((value for name, value in given if name == "type"), "")
        # Orthanc writes type="image/jp2; transfer-syntax=…", the parameter inside the quotes.
        inner, *nested = inner.split(";")
        given += _parameters(nested)
        media = _media_name(inner) if inner.strip() else "*/*"
        if media is None:
            return None
    syntaxes: list[str] = []
    parameters: dict[str, str] = {}
    quality = 1.0
    for name, value in given:
        if name == "q":
            quality = _quality(value)
        elif name == "transfer-syntax":
            syntaxes += [uid.strip() for uid in value.split(",") if uid.strip()]
        elif name != "type" or not multipart:
            parameters.setdefault(name, value)
    return AcceptRange(media, multipart, tuple(syntaxes), quality, MappingProxyType(parameters))


def _quality(text: str) -> float:
    plain = text.strip()
    if plain in ("", ".") or not _QUALITY.fullmatch(plain):
        return 1.0
    return min(float(plain), 1.0)


_ALIASES = {
    "application/json": "application/dicom+json",
    "text/json": "application/dicom+json",
    "application/xml": "application/dicom+xml",
    "text/xml": "application/dicom+xml",
    "image/x-jls": "image/jls",
    "image/x-dicom-rle": "image/dicom-rle",
    "image/x-jp2": "image/jp2",
    "image/jpg": "image/jpeg",
}
_ECHOED = {"application/json", "application/xml", "text/xml", "image/x-jls", "image/x-dicom-rle"}
_PAGE_TYPES = {"text/html", "application/xhtml+xml"}
_PAGE_XML = {"application/xml", "text/xml"}

# How closely a range names the media type of an offer, best first.
_EXACT, _ALIAS, _LOOSE, _FAMILY, _ANY_PART, _ANY = 5, 4, 3, 2, 1, 0


def choose(ranges: Sequence[AcceptRange], offers: Sequence[Offer]) -> Offer:
    """The offer to answer with; its `media` is renamed where the client asked by another name of it.

    Offers come in the server's order of preference, as they are stored before what must be made. The rules:

    - Of the ranges that fit an offer the most specific one decides about it; with q=0 it excludes it. Then the highest
      q wins, then the more specific range, then the client's order, then the server's.
    - `*/*` takes the first offer; `multipart/related` with no type, or with `*/*`, the first multipart offer. Any other
      range takes multipart offers only if it says multipart/related, and single ones only if it does not; but a bare
      application/dicom+xml takes multipart as well, since metadata in XML has no other form (PS3.18 8.7.3).
    - A named transfer syntax must be equal; a repeated one or `*` widens the choice, the earlier named one first. With
      no transfer syntax named any is taken, Explicit VR Little Endian first (the default of PS3.18 8.7.3) unless the
      type is a wildcard, so that nothing is refused: what cannot be decoded goes out as stored, and labelled so.
    - Frames: application/octet-stream takes those of any syntax, and they keep that label; an image or video type with
      `transfer-syntax=*` takes stored frames of another type too, labelled as what they are (OHIF asks every frame so).
    - application/json, text/json, application/* and */* take application/dicom+json, and the answer is labelled so
      unless application/json alone was named. application/xml and text/xml take application/dicom+xml, but not from the
      list of a browser that wants pages. image/x-jls and image/x-dicom-rle are old names of image/jls and
      image/dicom-rle.

    Raises NotAcceptable with what is offered.
    """
    if any(wanted.media in _PAGE_TYPES for wanted in ranges):
        ranges = [wanted for wanted in ranges if wanted.media not in _PAGE_XML]
    best: tuple[float, ...] | None = None
    chosen: Offer | None = None
    for place, offer in enumerate(offers):
        fit = _closest(ranges, offer)
        if fit is None:
            continue
        (media, syntax), index = fit
        wanted = ranges[index]
        if wanted.q <= 0:
            continue
        if media == _LOOSE and wanted.media == OCTET_STREAM and wanted.transfer_syntaxes:
            media = _EXACT  # with a syntax named, or '*', octets of any type are meant: the server's order decides
        key = (wanted.q, media, syntax, -index, *_syntax_preference(wanted, offer), -place)
        if best is None or key > best:
            best, chosen = key, _labelled(offer, wanted)
    if chosen is None:
        offered = tuple(dict.fromkeys(_description(offer) for offer in offers))
        raise NotAcceptable(
            "none of the media types in Accept can be given; offered here: " + ", ".join(offered), offered
        )
    return chosen


def _closest(ranges: Sequence[AcceptRange], offer: Offer) -> tuple[tuple[int, int], int] | None:
    """The (media, transfer syntax) closeness and the index of the most specific range that fits; of equals the
    first."""
    best: tuple[tuple[int, int], int] | None = None
    for index, wanted in enumerate(ranges):
        syntax = _syntax_closeness(wanted, offer)
        if syntax is None:
            continue
        media = _media_closeness(wanted, offer)
        if media is not None and (best is None or (media, syntax) > best[0]):
            best = (media, syntax), index
    return best


def _syntax_closeness(wanted: AcceptRange, offer: Offer) -> int | None:
    if not wanted.transfer_syntaxes or offer.transfer_syntax is None:
        return 0
    if offer.transfer_syntax in wanted.transfer_syntaxes:
        return 2
    return 1 if "*" in wanted.transfer_syntaxes else None


def _media_closeness(wanted: AcceptRange, offer: Offer) -> int | None:
    if wanted.media == "*/*":
        if not wanted.multipart:
            return _ANY
        return _ANY_PART if offer.multipart else None
    if wanted.multipart != offer.multipart:
        return _LOOSE if offer.multipart and wanted.media == offer.media == "application/dicom+xml" else None
    if wanted.media == offer.media:
        return _EXACT
    if _ALIASES.get(wanted.media) == offer.media:
        return _ALIAS
    if wanted.media.endswith("/*"):
        return _FAMILY if offer.media.startswith(wanted.media[:-1]) else None
    return _frame_closeness(wanted, offer)


def _frame_closeness(wanted: AcceptRange, offer: Offer) -> int | None:
    frames = offer.transfer_syntax is not None and _is_frame(wanted.media) and _is_frame(offer.media)
    any_type = wanted.media == OCTET_STREAM or "*" in wanted.transfer_syntaxes
    return _LOOSE if frames and any_type and wanted.q > 0 else None


def _is_frame(media: str) -> bool:
    return media == OCTET_STREAM or media.startswith(("image/", "video/"))


def _syntax_preference(wanted: AcceptRange, offer: Offer) -> tuple[int, int]:
    """Larger is better: the place among the syntaxes named, or the default one where none is."""
    named = wanted.transfer_syntaxes
    if named:
        return -(named.index(offer.transfer_syntax) if offer.transfer_syntax in named else len(named)), 0
    return 0, int(offer.transfer_syntax == EXPLICIT_VR_LITTLE_ENDIAN and not wanted.media.endswith("/*"))


def _labelled(offer: Offer, wanted: AcceptRange) -> Offer:
    if wanted.media == offer.media:
        return offer
    octets = wanted.media == OCTET_STREAM and offer.transfer_syntax is not None
    return replace(offer, media=wanted.media) if octets or wanted.media in _ECHOED else offer


def _description(offer: Offer) -> str:
    if not offer.multipart:
        return part_type(offer)
    syntax = f"; transfer-syntax={offer.transfer_syntax}" if offer.transfer_syntax else ""
    return f'multipart/related; type="{offer.media}"{syntax}'


def part_type(offer: Offer) -> str:
    """The Content-Type of one part, or of a single-part answer: the media type, and the transfer syntax if it has
    one."""
    return f"{offer.media}; transfer-syntax={offer.transfer_syntax}" if offer.transfer_syntax else offer.media
