"""Accept as real clients write it, and the choice among our offers."""

import contextlib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicomweb_server.dicom.media import (
    SYNTAX_MEDIA,
    AcceptRange,
    Offer,
    choose,
    parse_accept,
    parse_media_type,
    part_type,
)
from dicomweb_server.errors import BadRequest, NotAcceptable

EXPLICIT = "1.2.840.10008.1.2.1"
JPEG = "1.2.840.10008.1.2.4.50"
JPEG_LS = "1.2.840.10008.1.2.4.80"
JPEG_LS_NEAR = "1.2.840.10008.1.2.4.81"
RLE = "1.2.840.10008.1.2.5"
JSON = "application/dicom+json"
XML = "application/dicom+xml"
OCTETS = "application/octet-stream"
DICOM = "application/dicom"
ANY = AcceptRange("*/*")


class TestMediaType:
    @pytest.mark.parametrize(
        ("text", "media", "parameters"),
        [
            (None, "", {}),
            ("", "", {}),
            ("Application/DICOM", "application/dicom", {}),
            (
                'multipart/related; type="application/dicom"; boundary="a;b,c"',
                "multipart/related",
                {"type": "application/dicom", "boundary": "a;b,c"},
            ),
            (
                "multipart/related;TYPE=application/dicom;Boundary=a=b,c",
                "multipart/related",
                {"type": "application/dicom", "boundary": "a=b,c"},
            ),
            ("text/csv ; a = 1 ;; =x; b", "text/csv", {"a": "1", "b": ""}),
            ('a/b; c="say \\"x\\" \\\\ y"', "a/b", {"c": 'say "x" \\ y'}),
            ('a/b; c="never closed; d=1', "a/b", {"c": "never closed", "d": "1"}),
            ("a/b; c=1; c=2", "a/b", {"c": "1"}),
        ],
    )
    def test_is_split_into_type_and_parameters(self, text: str | None, media: str, parameters: dict[str, str]) -> None:
        assert parse_media_type(text) == (media, parameters)


class TestAccept:
    @pytest.mark.parametrize("text", [None, "", "  ", "*/*", "*", " * "])
    def test_nothing_said_is_anything(self, text: str | None) -> None:
        assert parse_accept(text) == [ANY]

    @pytest.mark.parametrize(
        "text",
        [
            'multipart/related; type="application/octet-stream"; transfer-syntax="*"',
            "multipart/related; type=application/octet-stream; transfer-syntax=*",
            "multipart/related; transfer-syntax=*; type=application/octet-stream",
            "Multipart/Related;Type=APPLICATION/octet-stream;Transfer-Syntax=*",
            'multipart/related ;\ttype="application/octet-stream" ; transfer-syntax = "*"',
            'multipart/related; type="application/octet-stream; transfer-syntax=*"',
            'multipart/related; type="application/octet-stream; transfer-syntax=*',
        ],
    )
    def test_frames_as_stored(self, text: str) -> None:
        assert parse_accept(text) == [AcceptRange(OCTETS, True, ("*",))]

    @pytest.mark.parametrize(
        ("text", "ranges"),
        [
            (
                'multipart/related; type="image/jls"; transfer-syntax="1.2.840.10008.1.2.4.80"; transfer-syntax="*"',
                [AcceptRange("image/jls", True, (JPEG_LS, "*"))],
            ),
            (f"{JSON}, application/json", [AcceptRange(JSON), AcceptRange("application/json")]),
            (
                f"{JSON}, multipart/related; type=application/octet-stream; transfer-syntax=*",
                [AcceptRange(JSON), AcceptRange(OCTETS, True, ("*",))],
            ),
            (
                f'multipart/related; type="application/pdf", multipart/related; type="{OCTETS}"',
                [AcceptRange("application/pdf", True), AcceptRange(OCTETS, True)],
            ),
            ('multipart/related; type="*/*"', [AcceptRange("*/*", True)]),
            ("multipart/related", [AcceptRange("*/*", True)]),
            ("multipart/related; type=", [AcceptRange("*/*", True)]),
            ('multipart/related; type="', [AcceptRange("*/*", True)]),
            (
                "text/html,application/xhtml+xml;q=0.9,image/webp,*/*;q=0.8",
                [
                    AcceptRange("text/html"),
                    AcceptRange("application/xhtml+xml", q=0.9),
                    AcceptRange("image/webp"),
                    AcceptRange("*/*", q=0.8),
                ],
            ),
            ("text/html, image/gif, *; q=.2", [AcceptRange("text/html"), AcceptRange("image/gif"), ANY]),
            ("application/dicom json", [AcceptRange(JSON)]),
            (
                f'{DICOM}; transfer-syntax="{EXPLICIT}, {JPEG}"; a="x,y;z"',
                [AcceptRange(DICOM, transfer_syntaxes=(EXPLICIT, JPEG), parameters={"a": "x,y;z"})],
            ),
            (f"{JSON}\t;\tq=0", [AcceptRange(JSON, q=0)]),
            (f"{JSON};q=1.5", [AcceptRange(JSON)]),
            (
                f"{JSON};q=abc, a/b;q=-1, c/d;q=, e/f;q=nan, g/h;q=1e9",
                [AcceptRange(m) for m in (JSON, "a/b", "c/d", "e/f", "g/h")],
            ),
            ('application/dicom+json; charset="', [AcceptRange(JSON, parameters={"charset": ""})]),
        ],
    )
    def test_real_forms(self, text: str, ranges: list[AcceptRange]) -> None:
        got = parse_accept(text)
        assert [(r.media, r.multipart, r.transfer_syntaxes, dict(r.parameters)) for r in got] == [
            (r.media, r.multipart, r.transfer_syntaxes, dict(r.parameters)) for r in ranges
        ]
        if "*; q=.2" not in text:
            assert [r.q for r in got] == [r.q for r in ranges]

    @pytest.mark.parametrize("text", ["x", "/", ";;;;", ",,,,", "a/", "/b", '"' * 500, "\xff\xfe", "a b c", "a/b/c"])
    def test_malformed_pieces_are_skipped(self, text: str) -> None:
        assert parse_accept(text) == []
        assert parse_accept(f"{text.replace(chr(34), '')}, {JSON}")[-1:] == [AcceptRange(JSON)]

    @pytest.mark.parametrize("text", ["a/b," * 301, "a/b;" * 20_000, "x" * 65_537])
    def test_too_much_of_it_is_refused(self, text: str) -> None:
        with pytest.raises(BadRequest):
            parse_accept(text)

    @pytest.mark.parametrize("piece", ['"', '"\\"', "\\", '";', '",', 'a/b; c="\\', ' "', "a/b;"])
    def test_is_read_in_linear_time(self, piece: str) -> None:
        text = piece * (65_536 // len(piece))
        began = time.process_time()
        with contextlib.suppress(BadRequest):
            parse_accept(text)
        assert time.process_time() - began < 2


STORED_JPEG = Offer("image/jpeg", JPEG, True)
STORED_NATIVE = Offer(OCTETS, EXPLICIT, True)
FILES = [Offer(DICOM, JPEG, True), Offer(DICOM, EXPLICIT, True)]
FRAMES = [STORED_JPEG, STORED_NATIVE]
LISTS = [Offer(JSON), Offer(XML, None, True)]
SINGLES = [Offer("image/jpeg", JPEG, True), Offer("image/jpeg", JPEG)]


class TestChoice:
    @pytest.mark.parametrize(
        ("accept", "offers", "chosen"),
        [
            # nothing, or anything
            (None, FRAMES, STORED_JPEG),
            ("*/*", LISTS, Offer(JSON)),
            ("*", LISTS, Offer(JSON)),
            ("image/avif,image/webp,*/*", [Offer("image/jpeg")], Offer("image/jpeg")),
            # multipart
            ("multipart/related", SINGLES[::-1], SINGLES[0]),
            ('multipart/related; type="*/*"', FRAMES, STORED_JPEG),
            ('multipart/related; type="*/*"', [Offer(OCTETS), STORED_NATIVE], STORED_NATIVE),
            ("image/jpeg", SINGLES, SINGLES[1]),
            ('multipart/related; type="image/jpeg"', SINGLES, SINGLES[0]),
            # transfer syntax: none named, named, repeated, wildcard
            ('multipart/related; type="application/dicom"', FILES, FILES[1]),
            ('multipart/related; type="application/dicom"', FILES[:1], FILES[0]),
            ('multipart/related; type="application/dicom"; transfer-syntax=*', FILES, FILES[0]),
            (f'multipart/related; type="application/dicom"; transfer-syntax={EXPLICIT}', FILES, FILES[1]),
            (
                f"multipart/related; type={DICOM}; transfer-syntax={EXPLICIT}; transfer-syntax={JPEG}",
                FILES,
                FILES[1],
            ),
            (f"multipart/related; type={DICOM}; transfer-syntax={EXPLICIT}; transfer-syntax=*", FILES, FILES[1]),
            (f"multipart/related; type={DICOM}; transfer-syntax={RLE}; transfer-syntax=*", FILES, FILES[0]),
            (
                f"multipart/related; type={DICOM}; transfer-syntax={RLE}, "
                f"multipart/related; type={DICOM}; transfer-syntax={EXPLICIT}",
                FILES,
                FILES[1],
            ),
            # frames
            (f"multipart/related; type={OCTETS}; transfer-syntax=*", FRAMES, Offer(OCTETS, JPEG, True)),
            (f"multipart/related; type={OCTETS}", FRAMES, STORED_NATIVE),
            (f"multipart/related; type={OCTETS}", FRAMES[:1], Offer(OCTETS, JPEG, True)),
            (f"multipart/related; type={OCTETS}; transfer-syntax={JPEG}", FRAMES, Offer(OCTETS, JPEG, True)),
            (f"multipart/related; type={OCTETS}; transfer-syntax={EXPLICIT}", FRAMES, STORED_NATIVE),
            ("multipart/related; type=image/*", FRAMES[::-1], STORED_JPEG),
            (
                f"multipart/related; type=image/jls; transfer-syntax={JPEG_LS}; transfer-syntax=*",
                [STORED_NATIVE],
                STORED_NATIVE,
            ),
            (
                f"multipart/related; type=image/jls; transfer-syntax={JPEG_LS}; transfer-syntax=*",
                [STORED_JPEG, STORED_NATIVE],
                STORED_JPEG,
            ),
            (
                f"multipart/related; type=image/jls; transfer-syntax={JPEG_LS}; transfer-syntax=*",
                [Offer("image/jls", JPEG_LS_NEAR, True)],
                Offer("image/jls", JPEG_LS_NEAR, True),
            ),
            (
                "multipart/related; type=image/x-jls",
                [Offer("image/jls", JPEG_LS, True)],
                Offer("image/x-jls", JPEG_LS, True),
            ),
            (
                "multipart/related; type=image/x-dicom-rle; transfer-syntax=1.2.840.10008.1.2.5",
                [Offer("image/dicom-rle", RLE, True)],
                Offer("image/x-dicom-rle", RLE, True),
            ),
            # bulk data
            (
                f'multipart/related; type="application/pdf", multipart/related; type="{OCTETS}"',
                [Offer(OCTETS, None, True), Offer("application/pdf", None, True)],
                Offer("application/pdf", None, True),
            ),
            # JSON and XML
            (f"{JSON}, application/json", LISTS, Offer(JSON)),
            (f"application/json, {JSON}", LISTS, Offer(JSON)),
            ("application/json", LISTS, Offer("application/json")),
            ("text/json", LISTS, Offer(JSON)),
            ("application/*", LISTS, Offer(JSON)),
            (f"{JSON}, multipart/related; type={OCTETS}; transfer-syntax=*", LISTS, Offer(JSON)),
            (f'multipart/related; type="{XML}"', LISTS, LISTS[1]),
            (XML, LISTS, LISTS[1]),
            (XML, [*LISTS, Offer(XML)], Offer(XML)),
            ("application/xml", [Offer(JSON), Offer(XML)], Offer("application/xml")),
            ("text/xml", [Offer(JSON), Offer(XML)], Offer("text/xml")),
            (
                "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8",
                [Offer(JSON), Offer(XML)],
                Offer(JSON),
            ),
            ("text/csv", [Offer(JSON), Offer("text/csv")], Offer("text/csv")),
            # weights
            (f"{JSON};q=0.5, text/csv", [Offer(JSON), Offer("text/csv")], Offer("text/csv")),
            (f"{JSON};q=0, */*", [Offer(JSON), Offer("text/csv")], Offer("text/csv")),
            ("*/*, text/csv;q=0.1", [Offer("text/csv"), Offer(JSON)], Offer(JSON)),
            ("text/csv, application/zip", [Offer("application/zip"), Offer("text/csv")], Offer("text/csv")),
            ("application/*, text/csv", [Offer("application/zip"), Offer("text/csv")], Offer("text/csv")),
            (
                f"multipart/related; type=image/jpeg;q=0, multipart/related; type={OCTETS}; transfer-syntax=*;q=0.5",
                FRAMES,
                STORED_NATIVE,
            ),
        ],
    )
    def test_follows_the_rules(self, accept: str | None, offers: list[Offer], chosen: Offer) -> None:
        assert choose(parse_accept(accept), offers) == chosen

    @pytest.mark.parametrize(
        ("accept", "offers"),
        [
            ("x", LISTS),
            ("*/*;q=0", LISTS),
            (f"{JSON};q=0", LISTS),
            ("text/html", LISTS),
            ('multipart/related; type="text/csv"', FRAMES),
            ('multipart/related; type="*/*"; transfer-syntax=1.2.3.4', FRAMES),
            ('multipart/related; type="*/*"', [Offer(JSON)]),
            (DICOM, FILES),
            (f"multipart/related; type={DICOM}", [Offer(DICOM, EXPLICIT)]),
            (f"multipart/related; type=image/jls; transfer-syntax={JPEG_LS}", [Offer("image/jls", JPEG_LS_NEAR, True)]),
            ("multipart/related; type=image/jls", [STORED_NATIVE]),
            (f"multipart/related; type={DICOM}; transfer-syntax=*", FRAMES),
            ("image/png; transfer-syntax=*", [Offer("image/jpeg")]),
            ("multipart/mixed", FRAMES),
            ("*/*", []),
        ],
    )
    def test_refuses_the_rest_and_says_what_there_is(self, accept: str, offers: list[Offer]) -> None:
        with pytest.raises(NotAcceptable) as caught:
            choose(parse_accept(accept), offers)
        assert len(caught.value.offered) == len(set(offers))
        assert all(text in caught.value.message for text in caught.value.offered)

    def test_refusal_is_readable(self) -> None:
        with pytest.raises(NotAcceptable) as caught:
            choose(parse_accept("text/html"), [*FRAMES, Offer(JSON)])
        assert caught.value.offered == (
            f'multipart/related; type="image/jpeg"; transfer-syntax={JPEG}',
            f'multipart/related; type="application/octet-stream"; transfer-syntax={EXPLICIT}',
            JSON,
        )


class TestContentType:
    def test_of_a_single_part_and_of_a_part_names_the_transfer_syntax(self) -> None:
        assert part_type(Offer(DICOM, EXPLICIT)) == f"application/dicom; transfer-syntax={EXPLICIT}"
        assert part_type(STORED_JPEG) == f"image/jpeg; transfer-syntax={JPEG}"

    def test_of_json_has_no_parameter(self) -> None:
        assert part_type(Offer(JSON)) == JSON

    @pytest.mark.parametrize(
        ("end", "media"),
        [
            ("", OCTETS),
            (".1", OCTETS),
            (".2", OCTETS),
            (".4.50", "image/jpeg"),
            (".4.70", "image/jpeg"),
            (".4.81", "image/jls"),
            (".4.90", "image/jp2"),
            (".4.93", "image/jpx"),
            (".4.201", "image/jphc"),
            (".4.203", "image/jphc"),
            (".4.110", "image/jxl"),
            (".5", "image/dicom-rle"),
            (".4.100", "video/mpeg"),
            (".4.102", "video/mp4"),
            (".4.108", "video/mp4"),
        ],
    )
    def test_of_a_frame_by_transfer_syntax(self, end: str, media: str) -> None:
        assert SYNTAX_MEDIA["1.2.840.10008.1.2" + end] == media


ACCEPT_PIECES = st.sampled_from(
    [
        "multipart/related",
        "application/dicom",
        JSON,
        "*/*",
        "image/*",
        "type=",
        "transfer-syntax=",
        "q=",
        "0",
        ".5",
        "*",
        EXPLICIT,
        ";",
        ",",
        "; ",
        ", ",
        '"',
        "\\",
        " ",
        "\t",
        "=",
        "/",
        "\xff",
        "boundary",
    ]
)
OFFERS = st.lists(
    st.builds(
        Offer,
        st.sampled_from([DICOM, OCTETS, JSON, XML, "image/jpeg", "video/mp4"]),
        st.sampled_from([None, EXPLICIT, JPEG]),
        st.booleans(),
    ),
    max_size=6,
)


@settings(derandomize=True, max_examples=400, deadline=None)
@given(
    accept=st.one_of(st.text(max_size=80), st.lists(ACCEPT_PIECES, max_size=40).map("".join)),
    offers=OFFERS,
)
def test_any_accept_gets_one_of_the_offers_or_is_not_acceptable(accept: str, offers: list[Offer]) -> None:
    with contextlib.suppress(NotAcceptable):
        chosen = choose(parse_accept(accept), offers)
        assert (chosen.transfer_syntax, chosen.multipart) in {(o.transfer_syntax, o.multipart) for o in offers}
