"""Checks that only read: what OHIF and the Python client ask from the study list to the pixels."""

from typing import Any
from urllib.parse import quote

from dicomweb_server.doctor.client import Answer, Failed, parts_as_ohif_reads, parts_as_python_reads
from dicomweb_server.doctor.target import DICOM_JSON, Skipped, Target, studies_of, value

OCTETS = "application/octet-stream"
LIST_FIELDS = "includefield=00081030%2C00080060%2C00080090%2C00100030"
LIST = f"/studies?limit=101&offset=0&fuzzymatching=false&{LIST_FIELDS}"
MERGED_ACCEPT = f"{DICOM_JSON}, multipart/related; type={OCTETS}; transfer-syntax=*"
PYTHON_JSON = "application/dicom+json, application/json"
UNKNOWN_UID = "2.999.1.2.3"  # 2.999 is for examples

# OHIF reads `.Value.length` of these without looking: an element without Value ends its whole study list.
NEEDS_VALUE = ("00080061",)
STUDY_NEEDS = ("0020000D", "00201208")
SERIES_NEEDS = ("0020000E", "00080060", "00201209")
IMAGE_NEEDS = ("00280010", "00280011", "00280100", "00280002", "00280004", "00080016", "00080018")


def study_list(target: Target) -> str:
    """OHIF's first request."""
    found = studies_of(target.client, LIST)
    for study in found:
        missing = [tag for tag in STUDY_NEEDS if not value(study, tag)]
        if missing:
            raise Failed(f"a study comes without {', '.join(missing)}, which the list shows")
        if any(tag in study and "Value" not in study[tag] for tag in NEEDS_VALUE):
            raise Failed("a study has ModalitiesInStudy (0008,0061) without Value: OHIF shows no study at all then")
    return f"{len(found)} studies"


def list_without_hits(target: Target) -> str:
    """An empty list must be JSON: the browser's JSON mode makes null of an empty 200."""
    if studies_of(target.client, f"/studies?StudyInstanceUID={UNKNOWN_UID}"):
        raise Failed("a search for a UID that nobody has finds something: StudyInstanceUID is not matched")
    return "an unknown study gives no hit"


def filters(target: Target) -> str:
    """The filters of the study list, as they are typed: tags and keywords, stars, joined modalities."""
    target.study_path  # noqa: B018 - raises Skipped
    name, patient = str(value(target.study, "00100010")), str(value(target.study, "00100020"))
    date = str(value(target.study, "00080020"))
    modality = str(value(target.series or target.study, "00080060"))
    tried = 0
    for what, text in (
        ("PatientName with stars", f"PatientName=*{quote(name[:4])}*" if name else ""),
        ("PatientID as a tag, with stars", f"00100020=*{quote(patient)}*" if patient else ""),
        ("PatientID as a tag", f"00100020={quote(patient)}" if patient else ""),
        ("two modalities joined by a comma", f"ModalitiesInStudy={modality},XX" if modality else ""),
        ("a range of days", f"StudyDate={date}-{date}" if date.isdigit() else ""),
        ("a range from 19700102", f"StudyDate=19700102-{date}" if date.isdigit() and date > "19700102" else ""),
    ):
        if text:
            tried += 1
            uids = [value(item, "0020000D") for item in studies_of(target.client, f"{LIST}&{text}")]
            if value(target.study, "0020000D") not in uids and len(uids) < 101:
                raise Failed(f"a search by {what} does not find the study that it should")
    return f"{tried} filters find the study"


def studies_by_uid(target: Target) -> str:
    """Several UIDs are joined by a backslash."""
    uid = target.study_path.rpartition("/")[2]
    for text in (uid, f"{uid}%5C{UNKNOWN_UID}"):
        found = [value(item, "0020000D") for item in studies_of(target.client, f"{LIST}&StudyInstanceUID={text}")]
        if found != [uid]:
            several = " in a list joined by a backslash" if "%5C" in text else ""
            raise Failed(f"a study named by its UID{several} is not what is found; OHIF cannot open it")
    return "by one UID and by two"


def series_list(target: Target) -> str:
    """The series, with the fields that OHIF asks for and without."""
    for query in ("?includefield=0008103E%2C00080021", ""):
        found = studies_of(target.client, f"{target.study_path}/series{query}")
        if not found:
            raise Failed("a study without any series is listed; OHIF shows nothing of it")
        for tag in SERIES_NEEDS:
            if not all(value(item, tag) for item in found):
                raise Failed(f"a series comes without {tag}, which OHIF sorts and chooses by")
    return f"{len(found)} series"


def series_metadata(target: Target) -> str:
    """The metadata that pictures are built from."""
    items = studies_of(target.client, f"{target.series_path}/metadata")
    uid = value(target.image, "00080018")
    item = next((item for item in items if value(item, "00080018") == uid), None)
    if item is None:
        raise Failed("the metadata of the series does not hold the image that the search lists")
    missing = [tag for tag in IMAGE_NEEDS if not value(item, tag)]
    if missing:
        raise Failed(f"the metadata lacks {', '.join(missing)}, without which no picture can be made")
    if not isinstance(value(item, "00280010"), int):
        raise Failed("Rows is no JSON number")
    if not {"7FE00010", "7FE00008", "7FE00009"} & item.keys():
        raise Failed("the metadata has no PixelData element; OHIF takes the object for one without pixels")
    if any(tag.startswith("0002") for tag in item):
        raise Failed("the metadata holds group 2, which is no part of the data set")
    if _has_null(item):
        raise Failed("an attribute is null; empty elements have a vr and no Value")
    return f"{len(items)} instances"


def _has_null(item: dict[str, Any]) -> bool:
    return any(not isinstance(element, dict) or element.get("Value", 0) is None for element in item.values())


def merged_accept(target: Target) -> str:
    """Older OHIF 3 sends two Accept headers merged into one; only JSON helps it."""
    studies_of(target.client, f"{target.series_path}/metadata", MERGED_ACCEPT)
    return "metadata is JSON"


def metadata_again(target: Target) -> str:
    """A viewer that comes back asks whether anything changed."""
    path = f"{target.series_path}/metadata"
    etag = target.client.get(path, DICOM_JSON).header("ETag")
    if not etag:
        raise Failed("metadata has no ETag: every visit fetches all of it again")
    again = target.client.get(path, DICOM_JSON, {"If-None-Match": etag})
    if again.status != 304:
        raise Failed(f"asked with the ETag just given, the server answers {again.status} instead of 304")
    return "answered 304"


FRAME_ACCEPTS = (
    f"multipart/related; type={OCTETS}; transfer-syntax=*",
    f'multipart/related; type="{OCTETS}"; transfer-syntax="*"',
    'multipart/related; type="*/*"',
    'multipart/related; type="image/jls"; transfer-syntax="1.2.840.10008.1.2.4.80"; transfer-syntax="*", '
    f'multipart/related; type="{OCTETS}"; transfer-syntax=*',
)


def frame(target: Target) -> str:
    """One frame, in the ways in which Accept is written by OHIF's builds and the Python client."""
    for accept in FRAME_ACCEPTS:
        answer = target.client.get(f"{target.instance_path}/frames/1", accept)
        if answer.status != 200:
            raise Failed(f"a frame asked with `Accept: {accept[:70]}` is answered {answer.status}")
        for parts in (parts_as_ohif_reads(answer), parts_as_python_reads(answer)):
            headers, content = parts[0]
            media = headers.get("Content-Type")
            if media is None:
                raise Failed("the part has no header spelled Content-Type; OHIF finds no type and no transfer syntax")
            if "transfer-syntax=" not in media and not media.startswith("image/"):
                raise Failed("the part names no transfer-syntax; OHIF takes it for Implicit VR Little Endian")
            if not content:
                raise Failed("the frame is empty")
    return f"{len(FRAME_ACCEPTS)} forms of Accept"


def frame_range(target: Target) -> str:
    """The first bytes of a frame, as progressive loading asks for them."""
    answer = target.client.get(f"{target.instance_path}/frames/1", OCTETS, {"Range": "bytes=0-15"})
    if answer.status == 200:
        raise Failed("Range is ignored; progressive loading fetches whole frames")
    if answer.status != 206 or len(answer.body) != 16 or not answer.header("Content-Range").startswith("bytes 0-15/"):
        raise Failed(f"16 bytes were asked for; {answer.status} with {len(answer.body)} bytes came")
    return "206 with 16 bytes"


def frame_missing(target: Target) -> str:
    """A frame beyond the last one."""
    answer = target.client.get(f"{target.instance_path}/frames/999999", FRAME_ACCEPTS[0])
    if not 400 <= answer.status < 500:
        raise Failed(f"frame 999999 is answered {answer.status}; it does not exist, clients expect 404")
    return f"answered {answer.status}"


def bulkdata(target: Target) -> str:
    """Bulk data by the URI in the metadata: as OHIF asks, as a browser asks, and a range as the Python client asks."""
    items = studies_of(target.client, f"{target.instance_path}/metadata")
    uri = next((element["BulkDataURI"] for element in (items or [{}])[0].values() if "BulkDataURI" in element), None)
    if uri is None:
        raise Skipped("the metadata names no BulkDataURI")
    if "://" not in uri:
        raise Failed("BulkDataURI is relative; the Python client follows absolute ones only")
    for accept in (f'multipart/related; type="{OCTETS}"', "*/*", 'multipart/related; type="*/*"'):
        answer = target.client.get(target.client.resolve(uri), accept)
        if answer.status != 200 or not answer.body:
            raise Failed(f"BulkDataURI asked with `Accept: {accept}` is answered {answer.status}")
    part = target.client.get(uri, 'multipart/related; type="*/*"', {"Range": "bytes=0-15"})
    if part.status not in (200, 206):
        raise Failed(f"BulkDataURI with a Range is answered {part.status}")
    return "three forms of Accept, and a range"


def whole_object(target: Target) -> str:
    """An instance as a file: SEG, RTSTRUCT and SR are read so."""
    for accept in (
        'multipart/related; type="application/dicom"',
        'multipart/related; type="application/dicom"; transfer-syntax=*',
    ):
        answer = target.client.get(target.instance_path, accept)
        if answer.status != 200:
            raise Failed(f"an instance asked with `Accept: {accept}` is answered {answer.status}")
        _, content = parts_as_python_reads(answer)[0]
        if content[128:132] != b"DICM":
            raise Failed("the part is no DICOM file (no DICM after 128 bytes)")
    return "a DICOM file in multipart"


def head(target: Target) -> str:
    """HEAD gives the headers of GET; video players and download managers ask it first."""
    answer = target.client.send("HEAD", f"{target.instance_path}/frames/1", {"Accept": OCTETS})
    if answer.status != 200 or answer.body:
        raise Failed(f"HEAD is answered {answer.status} with {len(answer.body)} bytes")
    return "headers without a body"


def paging(target: Target) -> str:
    """The Python client asks page after page until one is empty."""
    target.study_path  # noqa: B018 - raises Skipped
    pages = [
        studies_of(target.client, f"/studies?fuzzymatching=false&limit=1&offset={offset}", PYTHON_JSON)
        for offset in (0, 1, 10_000_000)
    ]
    if len(pages[0]) > 1:
        raise Failed("limit=1 gives more than one study")
    if pages[2]:
        raise Failed(
            "an offset behind the last study still gives some; a client that asks until it gets none never ends"
        )
    if pages[1] == pages[0]:
        raise Failed("offset=1 gives the same study as offset=0")
    return "limit and offset"


def repeated_fields(target: Target) -> str:
    """The Python client repeats includefield, OHIF joins by comma."""
    fields = "includefield=00081030&includefield=StudyDescription&includefield=00080090"
    studies_of(target.client, f"/studies?fuzzymatching=true&{fields}&limit=5&offset=0", PYTHON_JSON)
    return "includefield repeated"


def useless_bearer(target: Target) -> str:
    """Without a token the Python command sends the literal `Bearer None`."""
    plain = target.client.get("/studies?limit=1", PYTHON_JSON)
    if plain.status == 401:
        raise Skipped("the server wants a login")
    answer = target.client.get("/studies?limit=1", PYTHON_JSON, {"Authorization": "Bearer None"})
    if answer.status != plain.status:
        raise Failed(f"`Authorization: Bearer None` is answered {answer.status}, though no login is needed")
    return "ignored"


def rendered(target: Target) -> str:
    """The picture of an image, as browsers and the Python client ask for it."""
    for accept in ("image/jpeg", "image/avif,image/webp,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5", "*/*"):
        answer = target.client.get(f"{target.instance_path}/rendered", accept)
        _expect_picture(answer, f"/rendered asked with `Accept: {accept[:40]}`")
    return "three forms of Accept"


def thumbnail(target: Target) -> str:
    """Thumbnails: OHIF's client asks for multipart octets and wants the JPEG all the same."""
    multipart = f'multipart/related; type="{OCTETS}"'
    for path, accept in (
        (f"{target.instance_path}/thumbnail?accept=image%2Fjpeg", multipart),
        (f"{target.series_path}/thumbnail?accept=image/jpeg", "image/avif,image/webp,*/*;q=0.8"),
        (f"{target.series_path}/thumbnail?viewport=256%2C256", "image/jpeg"),
        (f"{target.study_path}/thumbnail", "*/*"),
    ):
        level = {3: "study", 5: "series"}.get(path.count("/"), "instance")
        _expect_picture(target.client.get(path, accept), f"the thumbnail of the {level}")
    return "study, series and instance"


def _expect_picture(answer: Answer, what: str) -> None:
    if answer.status != 200:
        raise Failed(f"{what} is answered {answer.status}")
    magic = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF")
    if not answer.body.startswith(magic):
        raise Failed(f"{what} is no picture but {answer.media or 'without a type'}")


def wado_uri(target: Target) -> str:
    """The older request for a whole object: OHIF 2, and OHIF 3 with imageRendering wadouri."""
    uids = target.instance_path.split("/")
    base = f"{target.wado}?requestType=WADO&studyUID={uids[2]}&seriesUID={uids[4]}&objectUID={uids[6]}"
    for rest in (
        "&contentType=application/dicom&transferSyntax=*",
        "&contentType=application%2Fdicom&transferSyntax=*&frame=1",
    ):
        answer = target.client.get(base + rest)
        if answer.status != 200:
            raise Failed(f"WADO-URI is answered {answer.status} (--wado names its URL, if it is elsewhere)")
        if answer.body[128:132] != b"DICM":
            raise Failed("WADO-URI with contentType=application/dicom gives no DICOM file")
    return "an object by query"


def cross_origin(target: Target) -> str:
    """What a browser wants before it lets a page of another origin read a frame."""
    if not target.origin:
        raise Skipped("name the viewer's origin with --origin to ask as its browser")
    headers = {
        "Origin": target.origin,
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "accept,authorization",
    }
    path = f"{target.instance_path}/frames/1"
    preflight = target.client.send("OPTIONS", path, headers)
    if not 200 <= preflight.status < 300:
        raise Failed(f"the preflight is answered {preflight.status}; the browser asks no further")
    _check_origin(target.origin, preflight)
    allowed = preflight.header("Access-Control-Allow-Headers").lower()
    if "authorization" not in allowed and allowed.strip() != "*":
        raise Failed("the preflight does not allow the Authorization header")
    _check_origin(target.origin, target.client.get(path, FRAME_ACCEPTS[1], {"Origin": target.origin}))
    return f"{target.origin} may read"


def _check_origin(origin: str, answer: Answer) -> None:
    found = answer.header("Access-Control-Allow-Origin")
    if found not in (origin, "*"):
        what = f"is {found}" if found else "is missing"
        raise Failed(
            f"Access-Control-Allow-Origin {what}: pages of {origin} may not read the answer; "
            "name the origin in the settings of the server (of ours: http.allowed_origins)"
        )
