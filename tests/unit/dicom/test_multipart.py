"""Multipart bodies: what clients send is read whole and in bounded memory, broken envelopes are refused."""

import io
import re
from collections.abc import Callable, Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicomweb_server.dicom.multipart import (
    MultipartLimits,
    MultipartReader,
    Part,
    closing,
    new_boundary,
    part_head,
)
from dicomweb_server.errors import BadRequest, TooLarge, UnsupportedMedia

RELATED = 'multipart/related; type="application/dicom"; boundary='


def reading(body: bytes, step: int | None = None) -> Callable[[int], bytes]:
    stream = io.BytesIO(body)
    return lambda size: stream.read(size if step is None else min(step, size))


def joined(part: Part) -> bytes:
    return b"".join(part.chunks())


def payloads(body: bytes, content_type: str, step: int | None = None) -> list[bytes]:
    return [joined(part) for part in MultipartReader(reading(body, step), content_type)]


def envelope(parts: Sequence[bytes], boundary: str = "X", line_end: bytes = b"\r\n") -> bytes:
    mark = b"--" + boundary.encode()
    head = mark + line_end + b"Content-Type: application/dicom" + line_end * 2
    return b"".join(head + part + line_end for part in parts) + mark + b"--" + line_end


class TestEnvelopesOfRealClients:
    @pytest.mark.parametrize("step", [None, 1, 7])
    @pytest.mark.parametrize(
        ("content_type", "body"),
        [
            (RELATED + "X", envelope([b"one", b"two"])),
            (RELATED + '"X"', envelope([b"one", b"two"])),
            ("Multipart/Related;Boundary=X;type=application/dicom", envelope([b"one", b"two"])),
            ("multipart/form-data; boundary=X", envelope([b"one", b"two"])),
            (RELATED + '"0f3cf5c0-70e0"', b"\r\n" + envelope([b"one", b"two"], "0f3cf5c0-70e0").rstrip()),
            (RELATED + '"----=_Part_1.2"', envelope([b"one", b"two"], "----=_Part_1.2")),
            (RELATED + "----=_Part_1.2", envelope([b"one", b"two"], "----=_Part_1.2")),
            (RELATED + "--X", envelope([b"one", b"two"], "X")),
            (RELATED + "--X", envelope([b"one", b"two"], "--X")),
            (RELATED + "X", envelope([b"one", b"two"]) + bytes(40)),
            (RELATED + "X", envelope([b"one", b"two"]).rstrip() + bytes(40)),
            (RELATED + "X", envelope([b"one", b"two"]) + b"epilogue\r\n--X\r\nnot a part"),
            (RELATED + "X", b"This is a preamble --X,\r\n--XY\r\n\r\nstill\r\n" + envelope([b"one", b"two"])),
            (RELATED + "X", envelope([b"one", b"two"], line_end=b"\n")),
            (RELATED + "X", b"--X \t\r\nA: b\n\none\r\n--X  \r\n\r\ntwo\r\n--X--"),
            (RELATED + "X", b"--X\r\n\r\none\r\n--X\r\n\r\ntwo\r\n--X--"),
            (RELATED + '"a;b,c=d e"', envelope([b"one", b"two"], "a;b,c=d e")),
        ],
    )
    def test_is_read_at_any_block_size(self, content_type: str, body: bytes, step: int | None) -> None:
        assert payloads(body, content_type, step) == [b"one", b"two"]

    def test_tells_the_type_of_the_whole(self) -> None:
        reader = MultipartReader(reading(b""), RELATED + "X")
        assert (reader.media_type, reader.parameters["type"]) == ("multipart/related", "application/dicom")

    def test_ended_is_true_only_behind_the_closing_boundary(self) -> None:
        reader = MultipartReader(reading(envelope([b"one"])), RELATED + "X")
        for part in reader:
            assert not reader.ended
            joined(part)
        assert reader.ended

    def test_a_body_of_no_parts_has_none(self) -> None:
        assert payloads(b"--X--\r\n", RELATED + "X") == []

    @pytest.mark.parametrize("step", [None, 1])
    @pytest.mark.parametrize(
        "body",
        [
            b"--X\r\n\r\n--X\r\nA: b\r\n\r\n--X--",
            b"--X\r\n\r\n\r\n--X\r\nA: b\r\n\r\n\r\n--X--",
            b"--X\n\n--X\nA: b\n\n\n--X--",
        ],
    )
    def test_parts_may_be_empty(self, body: bytes, step: int | None) -> None:
        assert payloads(body, RELATED + "X", step) == [b"", b""]

    def test_ten_thousand_tiny_parts(self) -> None:
        assert payloads(envelope([b"x"] * 10_000), RELATED + "X") == [b"x"] * 10_000


class TestPayload:
    @pytest.mark.parametrize("step", [None, 1, 5])
    @pytest.mark.parametrize(
        "payload",
        [
            b"\r\n--XY and more",
            b"\r\n--X-",
            b"\r\n--X\r",
            b"\r\n--X \r\r\n",
            b"\n--X\n",
            b"--",
            b"\r\n--\r\n--",
            b"\r\n\r\n\r\n",
            b"\r\n--X" + b" " * 500 + b"\r\n",
            b"\n",
            b"\r",
        ],
    )
    def test_keeps_what_only_looks_like_a_delimiter(self, payload: bytes, step: int | None) -> None:
        assert payloads(envelope([payload, b"next"]), RELATED + "X", step) == [payload, b"next"]

    def test_comes_in_views_not_larger_than_a_block(self) -> None:
        limits = MultipartLimits(block_bytes=1000)
        reader = MultipartReader(reading(envelope([bytes(100_000)])), RELATED + "X", limits=limits)
        sizes = [len(chunk) for part in reader for chunk in part.chunks()]
        assert sum(sizes) == 100_000
        assert max(sizes) <= 1000

    @pytest.mark.parametrize("taken", [0, 1, 3])
    def test_what_is_not_read_is_skipped(self, taken: int) -> None:
        limits = MultipartLimits(block_bytes=64)
        body = envelope([b"\r\n\n" + bytes(1000), b"\r\nsecond"])
        found = []
        for part in MultipartReader(reading(body), RELATED + "X", limits=limits):
            if part.number == 1:
                for _, _chunk in zip(range(taken), part.chunks(), strict=False):
                    pass
            else:
                found.append(joined(part))
        assert found == [b"\r\nsecond"]

    def test_is_skipped_also_when_its_iterator_was_closed(self) -> None:
        def first_only(part: Part) -> Iterator[memoryview]:
            yield from part.chunks()

        found = []
        for part in MultipartReader(reading(envelope([bytes(300), b"two"]), 50), RELATED + "X"):
            if part.number == 1:
                inner = first_only(part)
                next(inner)
                inner.close()  # type: ignore[attr-defined]
            else:
                found.append(joined(part))
        assert found == [b"two"]

    @pytest.mark.parametrize("begun", [False, True])
    def test_of_an_earlier_part_cannot_be_read_late(self, begun: bool) -> None:
        reader = iter(MultipartReader(reading(envelope([bytes(300), bytes(300)]), 50), RELATED + "X"))
        first = next(reader).chunks()
        if begun:
            next(first)
        last = next(reader).chunks()
        if begun:
            next(last)
        with pytest.raises(RuntimeError):
            list(first)
        assert list(reader) == []
        with pytest.raises(RuntimeError):
            list(last)

    def test_read_collects_up_to_a_limit(self) -> None:
        parts = iter(MultipartReader(reading(envelope([b"12345", b"12345"])), RELATED + "X"))
        assert next(parts).read(5) == b"12345"
        with pytest.raises(TooLarge):
            next(parts).read(4)

    @pytest.mark.parametrize("encoding", ["base64", "quoted-printable"])
    def test_in_a_transfer_encoding_is_refused_without_spoiling_the_next(self, encoding: str) -> None:
        body = f"--X\r\nContent-Transfer-Encoding: {encoding}\r\n\r\nAAAA\r\n--X\r\n".encode()
        body += b"content-transfer-encoding: Binary\r\n\r\ntwo\r\n--X--"
        parts = iter(MultipartReader(reading(body), RELATED + "X"))
        with pytest.raises(UnsupportedMedia, match="part 1"):
            next(parts).chunks()
        assert joined(next(parts)) == b"two"

    def test_errors_of_the_stream_pass_through(self) -> None:
        def broken(_size: int) -> bytes:
            raise ConnectionResetError

        with pytest.raises(ConnectionResetError):
            list(MultipartReader(broken, RELATED + "X"))


def one_part(head: str) -> Part:
    return next(iter(MultipartReader(reading(b"--X\r\n" + head.encode() + b"\r\n\r\n\r\n--X--"), RELATED + "X")))


class TestPartHeaders:
    def test_names_are_lower_case_and_the_first_of_a_repeated_one_counts(self) -> None:
        part = one_part("CONTENT-type:application/dicom ; Transfer-Syntax=1.2\r\nA: 1\r\na: 2\r\nB: x\r\n  y")
        assert part.headers == {"content-type": "application/dicom ; Transfer-Syntax=1.2", "a": "1", "b": "x y"}
        assert (part.media_type, part.parameters) == ("application/dicom", {"transfer-syntax": "1.2"})

    def test_a_part_may_have_none(self) -> None:
        part = next(iter(MultipartReader(reading(b"--X\r\n\r\nx\r\n--X--"), RELATED + "X")))
        assert (part.headers, part.media_type, part.name, part.filename) == ({}, "", None, None)

    def test_content_location(self) -> None:
        assert one_part("Content-Location: urn:uuid:7").content_location == "urn:uuid:7"

    @pytest.mark.parametrize(
        ("value", "name", "filename"),
        [
            ('form-data; name="files[]"; filename="a b.dcm"', "files[]", "a b.dcm"),
            ("form-data; name=file; filename=a.dcm", "file", "a.dcm"),
            ('form-data; filename="a;b\\".dcm"; name="x"', "x", 'a;b".dcm'),
            ('form-data; name="x"; filename="C:\\scans\\a.dcm"', "x", "C:\\scans\\a.dcm"),
            ("form-data; name=x; filename=a.dcm; filename*=UTF-8''na%C3%AFve.dcm", "x", "naïve.dcm"),
            ("form-data; name=x; filename*=iso-8859-1'de'%FC.dcm; filename=u.dcm", "x", "ü.dcm"),
            ("form-data; name=x; filename=a.dcm; filename*=klingon''b", "x", "a.dcm"),
            ('form-data; name="Größe"', "Größe", None),
        ],
    )
    def test_content_disposition(self, value: str, name: str, filename: str | None) -> None:
        part = one_part("Content-Disposition: " + value)
        assert (part.name, part.filename) == (name, filename)

    def test_that_are_no_utf_8_are_read_as_latin_1(self) -> None:
        body = b'--X\r\nContent-Disposition: form-data; filename="\xfc.dcm"\r\n\r\n\r\n--X--'
        assert next(iter(MultipartReader(reading(body), RELATED + "X"))).filename == "ü.dcm"


class TestBrokenEnvelope:
    @pytest.mark.parametrize(
        ("content_type", "reason"),
        [
            ("multipart/related", "boundary"),
            (RELATED, "boundary"),
            (RELATED + '""', "boundary"),
            (RELATED + "p" * 257, "longer"),
            (RELATED + '"a\r\nb"', "characters"),
            (RELATED + "\u2026", "characters"),
            (RELATED + "other", "does not occur"),
            (RELATED + "x", "does not occur"),
        ],
    )
    def test_in_the_content_type(self, content_type: str, reason: str) -> None:
        with pytest.raises(BadRequest, match=reason):
            payloads(envelope([b"one"]), content_type)

    @pytest.mark.parametrize("content_type", ["application/dicom", "", "text/plain; boundary=X"])
    def test_another_type_is_unsupported(self, content_type: str) -> None:
        with pytest.raises(UnsupportedMedia):
            MultipartReader(reading(b""), content_type)

    def test_an_empty_body_is_told(self) -> None:
        with pytest.raises(BadRequest, match="empty"):
            payloads(b"", RELATED + "X")

    def test_a_boundary_far_behind_is_not_searched_for_without_end(self) -> None:
        taken = 0

        def endless(size: int) -> bytes:
            nonlocal taken
            taken += size
            return b"\r\n-" * (size // 3)

        with pytest.raises(BadRequest):
            list(MultipartReader(endless, RELATED + "X"))
        assert taken < 1_000_000

    @pytest.mark.parametrize("step", [None, 1])
    def test_cut_anywhere_before_its_end_is_never_taken_for_whole(self, step: int | None) -> None:
        body = envelope([b"one", b"two"]).rstrip()
        for size in range(len(body)):
            got: list[bytes] = []
            reader = MultipartReader(reading(body[:size], step), RELATED + "X")
            with pytest.raises(BadRequest):
                got.extend(joined(part) for part in reader)
            assert not reader.ended

    def test_names_the_part_that_it_ended_in(self) -> None:
        with pytest.raises(BadRequest, match="inside part 3"):
            payloads(envelope([b"one", b"two", b"three"])[:-12], RELATED + "X")

    @pytest.mark.parametrize(
        ("head", "reason"),
        [
            (b"X-Long: " + b"y" * 1_000_000 + b"\r\n\r\n", "exceed"),
            (b"A: b\r\n" * 50_000, "exceed"),
            (b"Content-Type: a/b\r\n--X--", "inside its headers"),
            (b"no colon here\r\n\r\n", "colon"),
            (b": no name\r\n\r\n", "name"),
            (b" folded: first\r\n\r\n", None),
        ],
    )
    def test_headers(self, head: bytes, reason: str | None) -> None:
        body = b"--X\r\n" + head + b"payload\r\n--X--"
        if reason is None:
            assert payloads(body, RELATED + "X") == [b"payload"]
        else:
            with pytest.raises(BadRequest, match=reason):
                payloads(body, RELATED + "X")

    @pytest.mark.parametrize("step", [None, 7])
    def test_headers_may_be_so_long(self, step: int | None) -> None:
        limits = MultipartLimits(max_part_header_bytes=100)

        def read(size: int) -> list[bytes]:
            body = b"--X\r\n" + b"A: ".ljust(size, b"y") + b"\r\n\r\npayload\r\n--X--"
            return [joined(part) for part in MultipartReader(reading(body, step), RELATED + "X", limits=limits)]

        assert read(97) == [b"payload"]  # the line end and the beginning of the empty line count too
        with pytest.raises(BadRequest, match="exceed 100 bytes"):
            read(98)

    def test_endless_header_is_not_collected(self) -> None:
        taken = 0

        def endless(size: int) -> bytes:
            nonlocal taken
            taken += size
            return b"--X\r\n" if taken == size else b"y" * size

        with pytest.raises(BadRequest):
            list(MultipartReader(endless, RELATED + "X"))
        assert taken <= 2 * MultipartLimits().block_bytes

    def test_too_many_parts(self) -> None:
        limits = MultipartLimits(max_parts=3)
        with pytest.raises(TooLarge, match="3 parts"):
            list(MultipartReader(reading(envelope([b"x"] * 4)), RELATED + "X", limits=limits))
        assert len(list(MultipartReader(reading(envelope([b"x"] * 3)), RELATED + "X", limits=limits))) == 3


class TestWriting:
    def test_the_boundary_is_new_each_time_and_needs_no_quotes(self) -> None:
        made = {new_boundary() for _ in range(100)}
        assert len(made) == 100
        assert all(re.fullmatch(r"[A-Za-z0-9]{20,70}", boundary) for boundary in made)

    def test_the_exact_bytes(self) -> None:
        headers = [("Content-Type", "application/dicom"), ("Content-Location", "/studies/1")]
        body = part_head("B", headers, first=True) + b"one" + part_head("B", [], first=False) + closing("B")
        assert body == (
            b"--B\r\nContent-Type: application/dicom\r\nContent-Location: /studies/1\r\n\r\none"
            b"\r\n--B\r\n\r\n\r\n--B--\r\n"
        )

    def test_a_header_cannot_be_split(self) -> None:
        with pytest.raises(ValueError, match="line end"):
            part_head("B", [("Content-Location", "/a\r\nX: y")], first=True)


LIKE_DELIMITERS = st.lists(st.sampled_from([b"\r", b"\n", b"--", b"-", b"B", b" ", b"\0", b"ab"]), max_size=30)
PAYLOADS = st.one_of(st.binary(max_size=300), LIKE_DELIMITERS.map(b"".join))
HEADERS = st.lists(
    st.tuples(
        st.from_regex(r"[A-Za-z][A-Za-z-]{0,10}", fullmatch=True),
        st.from_regex(r"([!-~]([ -~]{0,20}[!-~])?)?", fullmatch=True),
    ),
    max_size=4,
    unique_by=lambda header: header[0].lower(),
)


def blocks(body: bytes, sizes: Sequence[int]) -> Callable[[int], bytes]:
    stream, place = io.BytesIO(body), iter(sizes)
    return lambda size: stream.read(min(size, next(place, size)))


@settings(derandomize=True, max_examples=250, deadline=None)
@given(
    parts=st.lists(st.tuples(HEADERS, PAYLOADS), max_size=5),
    boundary=st.sampled_from(["B", "--B", "0f3c-ab", "-" * 20 + "B"]),
    lead=st.sampled_from([b"", b"\r\n", b"text\r\n", b"text\n"]),
    tail=st.sampled_from([b"", bytes(9), b"\r\nepilogue"]),
    sizes=st.lists(st.integers(1, 40), max_size=200),
)
def test_what_is_written_is_read_back_however_it_is_cut(
    parts: list[tuple[list[tuple[str, str]], bytes]], boundary: str, lead: bytes, tail: bytes, sizes: list[int]
) -> None:
    like = re.compile(rb"\r\n" + re.escape(b"--" + boundary.encode()) + rb"(--|[ \t]*\r?(\n|\Z))")
    parts = [(headers, payload) for headers, payload in parts if not like.search(b"\r\n" + payload + b"\r\n")]
    body = b"".join(
        part_head(boundary, headers, first=number == 0) + payload for number, (headers, payload) in enumerate(parts)
    )
    if parts:
        body += closing(boundary)
    else:
        body = b"--" + boundary.encode() + b"--"
    reader = MultipartReader(blocks(lead + body + tail, sizes), f'multipart/related; boundary="{boundary}"')
    got = [(dict(part.headers), joined(part)) for part in reader]
    assert got == [({name.lower(): value for name, value in headers}, payload) for headers, payload in parts]
    assert reader.ended


@settings(derandomize=True, max_examples=250, deadline=None)
@given(
    pieces=st.lists(st.sampled_from([b"--B", b"--", b"\r\n", b"\n", b"\r", b"A: b", b":", b" ", b"\0\xff", b"x" * 50])),
    step=st.integers(1, 30),
)
def test_any_bytes_are_parts_or_a_bad_request(pieces: list[bytes], step: int) -> None:
    body = b"".join(pieces)
    try:
        got = payloads(body, "multipart/form-data; boundary=B", step)
    except BadRequest:
        return
    assert sum(map(len, got)) <= len(body)
