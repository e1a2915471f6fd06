"""Damaged files: refused with a reason, never with another error, never taken when something is cut off."""

import io
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicomweb_server.dicom.layout import Layout
from dicomweb_server.dicom.part10 import read_header
from dicomweb_server.errors import BadDicom
from tests.unit.dicom.files import (
    SEQUENCE_END,
    UNDEFINED,
    encapsulated,
    explicit,
    identity,
    image,
    implicit,
    implicit_identity,
    item,
    part10,
)


def _varied() -> bytes:
    """A small file with every kind of element."""
    code = explicit(0x00080100, "SH", b"T-1 ") + explicit(0x00080104, "LO", b"Lung")
    inner = explicit(0x00081115, "SQ", item(code) + SEQUENCE_END, length=UNDEFINED)
    nested = explicit(0x00081111, "SQ", item(inner))
    return (
        explicit(0x00080005, "CS", b"\\ISO 2022 IR 87 ")
        + identity()
        + explicit(0x00100010, "PN", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B")
        + nested
        + explicit(0x00091001, "UN", item(implicit(0x00080100, b"CODE")) + SEQUENCE_END, length=UNDEFINED)
        + explicit(0x00181063, "DS", b"1.5\\NaN ")
        + explicit(0x00189087, "FD", struct.pack("<d", 0.1))
        + image(frames=2)
        + explicit(0x00281101, "US", struct.pack("<3H", 256, 0, 16))
        + explicit(0x00291010, "OB", bytes(2000))
    )


NATIVE = part10(_varied() + explicit(0x7FE00010, "OW", bytes(12)))
ENCAPSULATED = part10(
    _varied() + encapsulated([b"\xff\xd8ab", b"cd\xff\xd9", b"\xff\xd8ef"]), syntax="1.2.840.10008.1.2.4.50"
)
IMPLICIT = part10(
    implicit_identity()
    + implicit(0x00281101, struct.pack("<3h", -1, 0, 16))
    + implicit(0x00081111, item(implicit(0x00081150, b"1.2 "), defined=True))
    + implicit(0x7FE00010, bytes(8)),
    syntax="1.2.840.10008.1.2",
)
BIG_ENDIAN = part10(identity(order=">") + explicit(0x00280010, "US", b"\0\2", order=">"), syntax="1.2.840.10008.1.2.2")
DEFLATED = part10(_varied(), syntax="1.2.840.10008.1.2.1.99")
ALL = (NATIVE, ENCAPSULATED, IMPLICIT, BIG_ENDIAN, DEFLATED)


def _survives(data: bytes) -> bool:
    """Read it; whatever is given back hangs together."""
    try:
        header = read_header(io.BytesIO(data))
    except BadDicom:
        return False
    assert Layout.unpack(header.layout.pack()) == header.layout
    assert list(header.attributes) == sorted(header.attributes)
    for key in header.layout.bulk_keys():
        bulk = header.layout.bulk_element(key)
        assert bulk is not None
        if not header.layout.deflated:
            assert bulk.offset + bulk.length <= len(data)
    return True


@pytest.mark.parametrize("data", ALL)
def test_the_undamaged_files_are_good(data: bytes) -> None:
    assert _survives(data)


@pytest.mark.parametrize("data", ALL)
def test_every_cut_at_an_odd_length_is_refused(data: bytes) -> None:
    for length in range(1, len(data), 2):
        assert not _survives(data[:length]), length


@pytest.mark.parametrize("data", [NATIVE, ENCAPSULATED, DEFLATED])
@pytest.mark.parametrize("cut", [*range(1, 8), *range(9, 13)])
def test_every_cut_in_the_last_value_is_refused(data: bytes, cut: int) -> None:
    with pytest.raises(BadDicom, match="truncated"):
        read_header(io.BytesIO(data[:-cut]))


def test_only_the_delimiter_of_whole_pixel_data_may_be_missing() -> None:
    syntax = "1.2.840.10008.1.2.4.50"
    whole = part10(identity() + image(frames=2) + encapsulated([b"ab", b"cd"], end=b""), syntax=syntax)
    assert "the pixel data has no sequence delimiter" in read_header(io.BytesIO(whole)).warnings
    short = part10(identity() + image(frames=3) + encapsulated([b"ab", b"cd"], end=b""), syntax=syntax)
    with pytest.raises(BadDicom, match="truncated: the pixel data has fewer fragments than frames"):
        read_header(io.BytesIO(short))


@given(data=st.data())
@settings(derandomize=True, max_examples=400, deadline=None)
def test_flipped_bits_never_raise_another_error(data: st.DataObject) -> None:
    damaged = bytearray(data.draw(st.sampled_from(ALL)))
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(128, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    _survives(bytes(damaged))


@given(data=st.data(), inserted=st.binary(max_size=12))
@settings(derandomize=True, max_examples=400, deadline=None)
def test_cut_and_inserted_bytes_never_raise_another_error(data: st.DataObject, inserted: bytes) -> None:
    good = data.draw(st.sampled_from(ALL))
    start = data.draw(st.integers(128, len(good)))
    end = min(len(good), start + data.draw(st.integers(0, 12)))
    _survives(good[:start] + inserted + good[end:])


@given(data=st.binary(max_size=300), marked=st.booleans())
@settings(derandomize=True, max_examples=300, deadline=None)
def test_random_bytes_are_refused(data: bytes, marked: bool) -> None:
    assert not _survives(bytes(128) + b"DICM" + data if marked else data)


@pytest.mark.parametrize("data", [b"", bytes(132), bytes(128) + b"DICM", b"DICM", bytes(100_000)])
def test_files_without_a_data_set_are_refused(data: bytes) -> None:
    with pytest.raises(BadDicom):
        read_header(io.BytesIO(data))


def test_deep_nesting_is_refused() -> None:
    opening = explicit(0x00081111, "SQ", b"", length=UNDEFINED) + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    with pytest.raises(BadDicom, match="nested deeper than 64"):
        read_header(io.BytesIO(part10(identity() + opening * 3000)))


def test_deep_nesting_in_un_is_refused_or_left_as_it_is() -> None:
    value = b""
    for _ in range(200):
        value = implicit(0x00081111, item(value, defined=True))
    header = read_header(io.BytesIO(part10(identity() + explicit(0x00081110, "UN", item(value, defined=True)))))
    assert header.attributes["00081110"]["vr"] in ("UN", "SQ")


def test_a_length_beyond_the_end_names_the_element_but_no_value() -> None:
    with pytest.raises(BadDicom, match=r"truncated: \(0010,0010\) says 65535 bytes") as caught:
        read_header(io.BytesIO(part10(identity() + explicit(0x00100010, "PN", b"Secret^Name ", length=0xFFFF))))
    assert "Secret" not in caught.value.message


def test_too_many_elements_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicomweb_server.dicom.elements.MAX_ELEMENTS", 500)
    items = item(explicit(0x00080100, "SH", b"AB")) * 600
    with pytest.raises(BadDicom, match="more than 500 elements"):
        read_header(io.BytesIO(part10(identity() + explicit(0x00081111, "SQ", items))))


class TestDeflateBombs:
    def test_the_limit_holds(self) -> None:
        data = part10(identity() + explicit(0x00420011, "OB", bytes(1 << 20)), syntax="1.2.840.10008.1.2.1.99")
        with pytest.raises(BadDicom, match="inflates to more than 500000 bytes"):
            read_header(io.BytesIO(data), inflated_limit_bytes=500_000)

    def test_an_absurd_ratio_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("dicomweb_server.dicom.part10._RATIO_FREE_BYTES", 1 << 20)
        data = part10(identity() + explicit(0x00420011, "OB", bytes(20 << 20)), syntax="1.2.840.10008.1.2.1.99")
        with pytest.raises(BadDicom, match="1000 times its size"):
            read_header(io.BytesIO(data))


@pytest.mark.parametrize("filling", [bytes(1), bytes(2), bytes(7), bytes(126), bytes(512), b"\r\n", b"\n"])
@pytest.mark.parametrize("file", [NATIVE, ENCAPSULATED, IMPLICIT], ids=["native", "encapsulated", "implicit"])
def test_what_fills_a_file_up_means_nothing(file: bytes, filling: bytes) -> None:
    plain, filled = (read_header(io.BytesIO(data)) for data in (file, file + filling))
    assert filled.attributes == plain.attributes
    assert filled.layout == plain.layout


@pytest.mark.parametrize("rest", [b"\0", b"\0\x52", b"\xe0\x7f\x10\0", b"\r\r\r"])
def test_the_beginning_of_an_element_is_no_filling(rest: bytes) -> None:
    with pytest.raises(BadDicom, match="truncated"):
        read_header(io.BytesIO(part10(identity()) + rest))
