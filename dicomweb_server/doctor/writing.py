"""Checks that store two small studies and delete them again."""

from collections.abc import Iterator
from typing import Any

from dicomweb_server.doctor.client import Answer, Failed
from dicomweb_server.doctor.reading import UNKNOWN_UID
from dicomweb_server.doctor.samples import Sample
from dicomweb_server.doctor.target import DICOM_JSON, Skipped, Target

BOUNDARY = "0f3cf5c0-70e0-41ef-baef-c6f9f65ec3e1"
STORE = {"Content-Type": f'multipart/related; type="application/dicom"; boundary="{BOUNDARY}"'}
BLOCK_BYTES = 4096
_CLOSE = f"\r\n--{BOUNDARY}--".encode()


def store_as_ohif(target: Target) -> str:
    """A report saved by OHIF: the payload begins with CRLF, and bytes of zero follow its end."""
    sample = _sample(target, 0)
    answer = target.client.send("POST", "/studies", {**STORE, "Accept": "*/*"}, _payload(sample) + bytes(64))
    _expect_stored(answer, sample)
    target.stored.append(sample)
    return f"{len(sample.files)} instances"


def store_as_python(target: Target) -> str:
    """The Python client: no Accept, no length, in chunks, no CRLF at the end."""
    sample = _sample(target, 1)
    answer = target.client.send("POST", f"/studies/{sample.study_uid}", STORE, _blocks(_payload(sample)))
    _expect_stored(answer, sample)
    target.stored.append(sample)
    return f"{len(sample.files)} instances, chunked"


def store_again(target: Target) -> str:
    """The same again: a client that was interrupted repeats everything."""
    if not target.stored:
        raise Skipped("nothing was stored")
    sample = target.stored[0]
    answer = target.client.send("POST", "/studies", {**STORE, "Accept": DICOM_JSON}, _payload(sample))
    if answer.status not in (200, 202, 409):
        raise Failed(f"storing the same instances again is answered {answer.status}")
    return f"answered {answer.status}"


def store_to_wrong_study(target: Target) -> str:
    """Instances sent to the URL of another study."""
    if not target.stored:
        raise Skipped("nothing was stored")
    answer = target.client.send(
        "POST", f"/studies/{UNKNOWN_UID}", {**STORE, "Accept": DICOM_JSON}, _payload(target.stored[0])
    )
    if answer.status not in (202, 400, 409):
        raise Failed(f"instances of another study are answered {answer.status} instead of 409")
    if answer.status != 400 and not isinstance(answer.json(), dict):
        raise Failed("the answer does not say which instances failed")
    return f"answered {answer.status}"


def delete(target: Target) -> str:
    """The studies that were stored are removed; their metadata is gone then."""
    if not target.stored:
        raise Skipped("nothing was stored")
    while target.stored:
        path = f"/studies/{target.stored.pop().study_uid}"
        answer = target.client.send("DELETE", path, {"Accept": "*/*"})
        if answer.status in (401, 403, 405, 501):
            left = len(target.stored) + 1
            target.stored.clear()
            raise Skipped(f"the server does not delete ({answer.status}); {left} studies of DICOMWEB-DOCTOR stay there")
        if answer.status not in (200, 202, 204):
            raise Failed(f"DELETE of a study is answered {answer.status}")
        gone = target.client.get(f"{path}/metadata", DICOM_JSON)
        if gone.status != 404 and answer.status != 202:
            raise Failed(f"the metadata of a deleted study is answered {gone.status} instead of 404")
    return "both studies are gone"


def _sample(target: Target, number: int) -> Sample:
    if len(target.samples) <= number:
        raise Skipped("nothing is stored without --store")
    return target.samples[number]


def _payload(sample: Sample) -> bytes:
    head = f"\r\n--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    return b"".join(head + file for file in sample.files) + _CLOSE


def _blocks(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), BLOCK_BYTES):
        yield data[start : start + BLOCK_BYTES]


def _expect_stored(answer: Answer, sample: Sample) -> None:
    if answer.status not in (200, 202):
        raise Failed(f"storing is answered {answer.status}")
    if answer.header("Content-Type") not in (
        DICOM_JSON,
        "application/json",
        "application/dicom+xml",
        "application/xml",
    ):
        raise Failed("Content-Type is not exactly application/dicom+json; the Python client reads nothing then")
    if answer.media.endswith("xml"):
        return
    result: Any = answer.json()
    if not isinstance(result, dict):
        raise Failed("the answer is not one JSON object; the Python client cannot read a list")
    stored = {item.get("00081155", {}).get("Value", [""])[0] for item in result.get("00081199", {}).get("Value", [])}
    if stored != set(sample.instance_uids):
        raise Failed("the answer does not list all instances as stored (ReferencedSOPSequence)")
