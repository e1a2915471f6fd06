"""Byte ranges and entity tags of requests."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicomweb_server.errors import RangeNotSatisfiable
from dicomweb_server.http.conditional import etag_matches, if_range_holds, parse_range


class TestByteRange:
    @pytest.mark.parametrize(
        ("header", "wanted"),
        [
            ("bytes=0-0", (0, 1)),
            ("bytes=10-29", (10, 20)),
            ("bytes=0-65535", (0, 100)),
            ("bytes=99-", (99, 1)),
            ("bytes=0-", (0, 100)),
            ("bytes=-1", (99, 1)),
            ("bytes=-500", (0, 100)),
            ("Bytes = 5 - 9 ", (5, 5)),
            ("bytes=5-9,", (5, 5)),
            ("bytes=0-" + "9" * 30, (0, 100)),
        ],
    )
    def test_one_is_cut_to_the_resource(self, header: str, wanted: tuple[int, int]) -> None:
        assert parse_range(header, 100) == [wanted]

    @pytest.mark.parametrize(
        "header",
        [
            None,
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=9-5",
            "lines=1-2",
            "bytes=0-1,5-6",
            "bytes=--1",
            "bytes=1",
            "bytes=١-٢",
            "bytes=0-" + "9" * 5000,
            "bytes=" + " " * 10_000 + "x",
        ],
    )
    def test_others_are_ignored(self, header: str | None) -> None:
        assert parse_range(header, 100) is None

    @pytest.mark.parametrize(
        ("header", "size"),
        [("bytes=100-", 100), ("bytes=100-200", 100), ("bytes=-0", 100), ("bytes=0-", 0), ("bytes=-5", 0)],
    )
    def test_outside_the_resource_is_told_with_its_size(self, header: str, size: int) -> None:
        with pytest.raises(RangeNotSatisfiable) as caught:
            parse_range(header, size)
        assert caught.value.size_bytes == size


class TestEntityTags:
    @pytest.mark.parametrize(
        ("header", "etag", "same"),
        [
            (None, '"a"', False),
            ("", '"a"', False),
            ("*", '"a"', True),
            ('"a"', '"a"', True),
            ('W/"a"', '"a"', True),
            ('"a"', 'W/"a"', True),
            ('"b", W/"a"', '"a"', True),
            ('"b","a"', '"a"', True),
            ('"a,b"', '"a"', False),
            ("a", '"a"', True),
            ("b, a", '"a"', True),
            ('"ab"', '"a"', False),
            ('"', '"a"', False),
        ],
    )
    def test_if_none_match_compares_weakly(self, header: str | None, etag: str, same: bool) -> None:
        assert etag_matches(header, etag) is same

    @pytest.mark.parametrize(
        ("header", "etag", "holds"),
        [
            (None, '"a"', True),
            ('"a"', '"a"', True),
            (' "a" ', '"a"', True),
            ('"b"', '"a"', False),
            ('W/"a"', 'W/"a"', False),
            ('W/"a"', '"a"', False),
            ("Wed, 21 Oct 2015 07:28:00 GMT", '"a"', False),
        ],
    )
    def test_if_range_compares_strongly(self, header: str | None, etag: str, holds: bool) -> None:
        assert if_range_holds(header, etag) is holds


@settings(derandomize=True, max_examples=200, deadline=None)
@given(header=st.from_regex(r"bytes=[0-9]{0,3}-[0-9]{0,3}(,[0-9]?-[0-9]?)?", fullmatch=True), size=st.integers(0, 500))
def test_any_range_lies_inside_the_resource(header: str, size: int) -> None:
    try:
        ranges = parse_range(header, size)
    except RangeNotSatisfiable:
        return
    for start, length in ranges or []:
        assert length > 0
        assert 0 <= start <= start + length <= size
