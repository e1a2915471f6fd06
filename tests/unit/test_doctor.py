"""`doctor`: nothing to complain about on our server, and a sentence for each way in which answers can be wrong."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import orjson
import pytest
import requests
from pydicom.encaps import encapsulate
from pydicom.uid import MPEG4HP41

from dicomweb_server.__main__ import main
from dicomweb_server.commands.doctor import wado_of
from dicomweb_server.doctor.checks import READING, REMOVING, STORING, run_checks
from dicomweb_server.doctor.client import Client
from dicomweb_server.doctor.samples import make_samples
from dicomweb_server.doctor.target import Target
from tests.live import LiveServer
from tests.samples import RELATED, envelope, instance, part10

EVERY_CHECK = [name for name, _, _ in (*STORING, *READING, *REMOVING)]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer on its way through the proxy."""

    status: int
    headers: dict[str, str]
    body: bytes


Spoil = Callable[[str, Reply], Reply]


class SpoilingProxy(ThreadingHTTPServer):
    """A server that passes everything on to another one, and changes its answers."""

    daemon_threads = True
    session: requests.Session
    upstream: str
    spoil: Spoil


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65536  # head and body in one packet
    server: SpoilingProxy

    def handle_any(self) -> None:
        body: bytes | None = None
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(iter(self._chunk, b""))
        elif "Content-Length" in self.headers:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        dropped = ("transfer-encoding", "content-length", "accept-encoding", "connection")
        headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
        answer = self.server.session.request(
            self.command, self.server.upstream + self.path, data=body, headers=headers, timeout=30
        )
        head = {k: v for k, v in answer.headers.items() if k.lower() not in ("transfer-encoding", "content-length")}
        reply = self.server.spoil(f"{self.command} {self.path}", Reply(answer.status_code, head, answer.content))
        self.send_response_only(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)

    def _chunk(self) -> bytes:
        data = self.rfile.read(int(self.rfile.readline(), 16))
        self.rfile.readline()
        return data

    do_GET = do_POST = do_DELETE = do_OPTIONS = do_HEAD = handle_any

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def spoiled(live_server: LiveServer) -> Iterator[Callable[[Spoil], dict[str, tuple[str, str]]]]:
    """A function that asks the server through a proxy that spoils its answers; gives what became of each check."""
    servers: list[tuple[SpoilingProxy, threading.Thread]] = []

    session = requests.Session()

    def ask(spoil: Spoil) -> dict[str, tuple[str, str]]:
        proxy = SpoilingProxy(("127.0.0.1", 0), Handler)
        proxy.upstream, proxy.spoil, proxy.session = live_server.url, spoil, session
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        servers.append((proxy, thread))
        url = f"http://127.0.0.1:{proxy.server_port}"
        client = Client(f"{url}/dicom-web")
        try:
            target = Target(client=client, wado=f"{url}/wado", samples=make_samples())
            return {result.name: (result.outcome, result.sentence) for result in run_checks(target)}
        finally:
            client.close()

    yield ask
    session.close()
    for proxy, thread in servers:
        proxy.shutdown()
        proxy.server_close()
        thread.join()


def test_our_server_passes(live_server: LiveServer, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["doctor", f"{live_server.url}/dicom-web", "--store", "--origin", live_server.url, "--json"])
    report = orjson.loads(capsys.readouterr().out)
    assert [check for check in report["checks"] if check["outcome"] != "ok"] == []
    assert [check["name"] for check in report["checks"]] == EVERY_CHECK
    assert status == 0
    assert requests.get(f"{live_server.url}/studies", timeout=10).json() == []


def test_without_store_nothing_is_written(live_server: LiveServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", f"{live_server.url}/dicom-web"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("skipped  frame ") for line in lines)
    assert lines[-1].startswith("6 ok, 0 failed") or " 0 failed" in lines[-1]
    assert requests.get(f"{live_server.url}/studies", timeout=10).json() == []


def test_a_video_is_no_image(live_server: LiveServer, capsys: pytest.CaptureFixture[str]) -> None:
    video = instance(PixelData=encapsulate([bytes(100)]), NumberOfFrames=2)
    video["PixelData"].VR = "OB"
    file = part10(video, transfer_syntax_uid=MPEG4HP41)
    requests.post(f"{live_server.url}/studies", envelope([file]), headers={"Content-Type": RELATED}, timeout=10)
    try:
        assert main(["doctor", f"{live_server.url}/dicom-web"]) == 0
        assert "no image was found" in capsys.readouterr().out
    finally:
        requests.delete(f"{live_server.url}/studies/{video.StudyInstanceUID}", timeout=10)


def test_an_origin_that_the_server_does_not_list(live_server: LiveServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", live_server.url, "--store", "--origin", "http://viewer.example"]) == 1
    assert "Access-Control-Allow-Origin is missing: pages of http://viewer.example" in capsys.readouterr().out


def test_the_proxy_itself_spoils_nothing(spoiled: Callable[[Spoil], dict[str, tuple[str, str]]]) -> None:
    assert {outcome for outcome, _ in spoiled(lambda _request, reply: reply).values()} <= {"ok", "skipped"}


def _replaced(part: str, old: bytes, new: bytes) -> Spoil:
    def spoil(request: str, reply: Reply) -> Reply:
        return replace(reply, body=reply.body.replace(old, new)) if part in request else reply

    return spoil


def _headed(part: str, **headers: str | None) -> Spoil:
    changes = {name.replace("_", "-").lower(): value for name, value in headers.items()}

    def spoil(request: str, reply: Reply) -> Reply:
        if part not in request:
            return reply
        merged = {**{name.lower(): value for name, value in reply.headers.items()}, **changes}
        return replace(reply, headers={name: value for name, value in merged.items() if value is not None})

    return spoil


def _answered(part: str, status: int, body: bytes = b"") -> Spoil:
    return lambda request, reply: replace(reply, status=status, body=body) if part in request else reply


@pytest.mark.parametrize(
    ("spoil", "check", "sentence"),
    [
        (_answered("GET /dicom-web/studies?limit=101", 500), "study list", "answered 500"),
        (_answered("GET /dicom-web/studies?limit=101", 206, b"[]"), "study list", "answered 206"),
        (_answered("StudyInstanceUID=2.999.1.2.3", 200), "list without hits", "no JSON"),
        (
            _replaced("studies?limit=101", b'"00080061":{"vr":"CS","Value":["CT"]}', b'"00080061":{"vr":"CS"}'),
            "study list",
            "no study at all",
        ),
        (_answered("%5C", 200, b"[]"), "studies by UID", "backslash"),
        (_answered("00100020=", 200, b"[]"), "filters of the list", "PatientID as a tag"),
        (_replaced("/metadata", b'"7FE00010"', b'"7FE10010"'), "metadata of a series", "no PixelData"),
        (_replaced("/metadata", b'"BulkDataURI":"http', b'"BulkDataURI":"../http'), "bulk data", "answered"),
        (_headed("/metadata", ETag=None), "metadata again", "no ETag"),
        (_replaced("/frames/1", b"Content-Type:", b"content-type:"), "frame", "spelled"),
        (_replaced("/frames/1", b"; transfer-syntax=", b"; x="), "frame", "Implicit VR Little Endian"),
        (_headed("/frames/1", Content_Type="multipart/related"), "frame", "no boundary"),
        (_answered("/frames/999999", 500), "frame that is not there", "clients expect 404"),
        (_answered("/rendered", 406), "rendered", "answered 406"),
        (_answered("/thumbnail", 200, b"<html>"), "thumbnails", "no picture"),
        (_answered("/wado?", 404), "WADO-URI", "--wado"),
        (_headed("POST ", Content_Type="application/dicom+json; charset=utf-8"), "store, as a viewer", "exactly"),
        (_answered("DELETE ", 405), "delete", "stay there"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(
    spoiled: Callable[[Spoil], dict[str, tuple[str, str]]], spoil: Spoil, check: str, sentence: str
) -> None:
    outcome, said = spoiled(spoil)[check]
    assert outcome == ("skipped" if check == "delete" else "failed")
    assert sentence in said


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "http://127.0.0.1:1/dicom-web"]) == 1
    assert "no answer came" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["ftp://host"], ["no-url"], ["http://localhost", "--header", "no colon"]])
def test_asked_wrongly(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", *words]) == 1
    assert capsys.readouterr().err.startswith("dicomweb-server: ")


@pytest.mark.parametrize(
    ("root", "expected"),
    [
        ("http://h/dicom-web", "http://h/wado"),
        ("http://h/x/dicom-web", "http://h/x/wado"),
        ("http://h", "http://h/wado"),
        ("http://h/other", "http://h/other/wado"),
    ],
)
def test_where_wado_uri_is(root: str, expected: str) -> None:
    assert wado_of(root, ("", "/dicom-web")) == expected
