"""The packed layout gives back what went in, and refuses what is damaged."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicomweb_server.dicom.layout import BulkElement, EncapsulatedFrames, Layout, NativeFrames, bulk_index
from dicomweb_server.errors import StorageCorrupt

_KEYS = st.from_regex(r"[0-9A-F]{8}(/[1-9][0-9]{0,3}/[0-9A-F]{8}){0,3}", fullmatch=True)
_NUMBERS = st.integers(0, 2**63)
_BULK = st.dictionaries(
    _KEYS, st.builds(BulkElement, _NUMBERS, _NUMBERS, st.sampled_from(["OB", "OW", "UT"]), st.booleans())
)
_FRAMES = st.one_of(
    st.none(),
    st.builds(NativeFrames, _NUMBERS, _NUMBERS, st.integers(1, 2**31)),
    st.integers(0, 5).flatmap(
        lambda count: st.binary(min_size=16 * count, max_size=16 * count).map(
            lambda table: EncapsulatedFrames(count, table)
        )
    ),
)


@given(
    frames=_FRAMES,
    bulk=_BULK,
    deflated=st.booleans(),
    big_endian=st.booleans(),
    pixel_tag=st.sampled_from([None, "7FE00010", "7FE00008", "7FE00009"]),
)
@settings(derandomize=True, max_examples=200, deadline=None)
def test_what_is_packed_comes_back(
    frames: NativeFrames | EncapsulatedFrames | None,
    bulk: dict[str, BulkElement],
    deflated: bool,
    big_endian: bool,
    pixel_tag: str | None,
) -> None:
    layout = Layout("1.2.840.10008.1.2.1", deflated, big_endian, frames, pixel_tag, bulk_index(bulk))
    found = Layout.unpack(layout.pack())
    assert found == layout
    assert list(found.bulk_keys()) == list(bulk)
    assert {key: found.bulk_element(key) for key in bulk} == bulk


@pytest.mark.parametrize(
    "key", ["", "7FE0001", "7fe00010", "7FE00010 OW", "\n7FE00010", "7FE00010\n", "7FE00010/0/7FE00010", "../x", "1 OB"]
)
def test_unknown_and_malformed_keys_have_no_bulk_data(key: str) -> None:
    layout = Layout("1.2", False, False, None, None, bulk_index({"7FE00010": BulkElement(1, 2, "OW", False)}))
    assert layout.bulk_element(key) is None


def test_a_key_inside_another_is_not_mistaken_for_it() -> None:
    bulk = {"00880200/1/7FE00010": BulkElement(1, 2, "OW", False), "7FE00010": BulkElement(3, 4, "OW", False)}
    layout = Layout("1.2", False, False, None, None, bulk_index(bulk))
    assert layout.bulk_element("7FE00010") == bulk["7FE00010"]


def test_damaged_data_is_refused() -> None:
    packed = Layout("1.2", False, False, NativeFrames(1, 8, 1), "7FE00010", b"").pack()
    for damaged in (b"", packed[:5], packed[:-1], packed + b"x", b"\xff" + packed[1:]):
        with pytest.raises(StorageCorrupt):
            Layout.unpack(damaged)


def test_a_long_table_is_not_copied() -> None:
    table = struct.pack("<QQ", 1, 2) * 100_000
    frames = Layout.unpack(Layout("1.2", False, False, EncapsulatedFrames(100_000, table), None, b"").pack()).frames
    assert isinstance(frames, EncapsulatedFrames)
    assert isinstance(frames.table, memoryview)
    assert frames.table == table
