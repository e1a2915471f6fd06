"""What is remembered of the files before makes no difference to what is read: in any order, of any neighbours."""

import io
import random
from collections.abc import Iterator

import pytest

from dicomweb_server.dicom.part10 import Header, read_header
from dicomweb_server.dicom.plans import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE
from dicomweb_server.errors import BadDicom
from tests.unit.dicom.files import explicit, identity, implicit, implicit_identity, item, part10
from tests.unit.dicom.test_sample_files import FILES

ENCODINGS = (EXPLICIT_LITTLE, IMPLICIT_LITTLE, EXPLICIT_BIG)
NAMES = [0x00081030, 0x0008103E, 0x00081040, 0x00081050, 0x00081090]


def forget() -> None:
    for encoding in ENCODINGS:
        encoding.plans.clear()
        encoding.runs.clear()
        encoding.sequences.clear()
        encoding.previous = {}


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    forget()
    yield
    forget()


def read(data: bytes) -> Header | str:
    try:
        return read_header(io.BytesIO(data), len(data))
    except BadDicom as exc:
        return exc.message


def series(number: bytes, *, name: bytes = b"CHEST ", code: bytes = b"T-1 ", more: bytes = b"") -> bytes:
    """An instance with a run of descriptions, a sequence, and behind them what differs."""
    texts = b"".join(explicit(tag, "LO", name) for tag in NAMES)
    sequence = explicit(0x00082218, "SQ", item(explicit(0x00080100, "SH", code), defined=True))
    return part10(texts + sequence + explicit(0x00200013, "IS", number) + identity() + more)


def test_every_sample_file_is_read_alike_whatever_came_before() -> None:
    alone = {}
    for path in FILES:
        forget()
        alone[path] = read(path.read_bytes())
    forget()
    order = [path for path in FILES for _ in range(3)]
    random.Random(7).shuffle(order)
    for path in [path for path in FILES for _ in range(3)] + order:
        assert read(path.read_bytes()) == alone[path], path.name


def test_runs_are_taken_and_end_where_something_differs() -> None:
    kept = [series(b"1 "), series(b"2 "), series(b"3 "), series(b"4 ", name=b"HEAD  "), series(b"5 ", code=b"T-2 ")]
    found = [read(data) for data in kept]
    assert max(len(run.elements) for run in EXPLICIT_LITTLE.runs.values()) >= len(NAMES)
    for data, header in zip(kept, found, strict=True):
        forget()
        assert read(data) == header


def test_a_file_that_is_cut_inside_of_what_is_remembered_is_refused() -> None:
    whole = part10(identity() + b"".join(explicit(tag, "LO", b"CHEST\0") for tag in NAMES))
    for _ in range(4):
        assert isinstance(read(whole), Header)
    assert EXPLICIT_LITTLE.runs
    for length in range(len(whole) - 13 * len(NAMES), len(whole)):
        cut = whole[:length]
        found = read(cut)
        forget()
        assert found == read(cut)
        for _ in range(4):
            read(whole)


def test_a_tag_that_stands_twice_keeps_its_last_value() -> None:
    def twice(first: bytes, second: bytes) -> bytes:
        return part10(
            identity()
            + b"".join(explicit(0x00081030, "LO", value) for value in (first, second))
            + b"".join(explicit(tag, "LO", b"CHEST ") for tag in NAMES[1:])
        )

    files = [twice(b"A ", b"B "), twice(b"A ", b"B "), twice(b"A ", b"B "), twice(b"B ", b"A "), twice(b"B ", b"B ")]
    for data, value in zip(files, ["B", "B", "B", "A", "B"], strict=True):
        header = read(data)
        assert isinstance(header, Header)
        assert header.attributes["00081030"]["Value"] == [value]


def test_a_sequence_that_warns_warns_each_time() -> None:
    odd = explicit(0x00082218, "SQ", item(explicit(0x00280010, "US", b"abc"), defined=True))
    data = part10(odd + identity())
    headers = [read(data) for _ in range(3)]
    assert isinstance(headers[0], Header)
    assert headers[0].warnings
    assert headers[1:] == headers[:1] * 2


def test_what_hangs_on_attributes_outside_of_a_sequence_is_not_remembered() -> None:
    lut = implicit(0x00283010, item(implicit(0x00281101, b"\x00\x01\xff\xff\x10\x00"), defined=True))

    def image_(representation: bytes) -> bytes:
        return part10(implicit_identity() + implicit(0x00280103, representation) + lut, syntax="1.2.840.10008.1.2")

    files = [image_(value) for value in (b"\0\0", b"\0\0", b"\1\0", b"\1\0", b"\0\0")]
    together = [read(data) for data in files]
    for data, header in zip(files, together, strict=True):
        forget()
        assert read(data) == header
