"""The audit trail: what is in it, when, and the forms in which others read it."""

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from fhir.resources.R4B.auditevent import AuditEvent
from fhir.resources.R4B.bundle import Bundle

from dicomweb_server.__main__ import main
from dicomweb_server.app import open_parts
from dicomweb_server.audit.record import AuditRecord, to_audit_event, to_message
from dicomweb_server.audit.syslog import SyslogSink
from dicomweb_server.audit.trail import KIND, MAX_REFUSALS_OF_ADDRESS, AuditTrail
from dicomweb_server.errors import ConfigError
from dicomweb_server.settings import load
from dicomweb_server.storage.base import Storage
from tests.http.conftest import Archive, Client, opened
from tests.http.identities import LOGIN_SETTINGS, PASSWORD, Headers, add_user, basic, bearer, log_in
from tests.samples import RELATED, envelope, instance, part10, url

RECORD = AuditRecord(
    time="2026-05-01T10:20:30.123Z",
    action="delete",
    user="anna",
    kind="user",
    address="10.0.0.1",
    outcome="success",
    what="DELETE /studies/{study_uid}",
    study_uid="1.2.3",
    patient_id="<P&1>",
    status=204,
)


def records(archive: Client, boss: Headers, **criteria: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = archive.get("/audit", params=criteria, headers=boss).json["records"]
    return found


class TestWhatIsInIt:
    def test_who_what_whose_and_whether(self, make_archive: Archive) -> None:
        archive = make_archive(LOGIN_SETTINGS)
        boss, rita = bearer(log_in(archive)["token"]), add_user(archive, "rita", "reader")
        ds = instance(PatientID="4711")
        archive.authorization = ("Bearer", boss["Authorization"].split()[1])
        archive.store(ds)
        archive.authorization = None
        archive.delete(url(ds), headers=rita, status=403)
        archive.delete(f"/studies/{ds.StudyInstanceUID}", headers=boss, status=204)
        archive.post_json("/login", {"username": "rita", "password": "wrong wrong"}, status=401)
        archive.get("/studies", headers=bearer("rubbish"), status=401)
        # All of this was there before the answers were.
        stored, removed = (records(archive, boss, action=action) for action in ("store", "delete"))
        assert [(one["user"], one["study_uid"], one["patient_id"]) for one in stored] == [
            ("admin", ds.StudyInstanceUID, "4711")
        ]
        assert [(one["user"], one["outcome"], one["patient_id"]) for one in removed] == [
            ("rita", "denied", ""),
            ("admin", "success", "4711"),
        ]
        denied = records(archive, boss, action="login", outcome="denied")
        assert [(one["user"], one["status"]) for one in denied] == [("rita", 401)]
        assert len(records(archive, boss, action="login", outcome="success")) == 3
        assert [one["action"] for one in records(archive, boss, patient="4711")] == ["store", "delete"]
        changed = records(archive, boss, action="admin")
        assert [one["what"] for one in changed] == ["POST /api/users"]
        text = json.dumps(records(archive, boss))
        for secret in (PASSWORD, "wrong wrong", "rubbish", boss["Authorization"]):
            assert secret not in text
        archive.get("/audit", headers=rita, status=403)
        archive.get("/audit?colour=red", headers=boss, status=400)
        archive.get("/audit?limit=0", headers=boss, status=400)
        bundle = archive.get("/audit?limit=1", headers={**boss, "Accept": "application/fhir+json"})
        assert bundle.json["entry"][0]["resource"]["resourceType"] == "AuditEvent"

    def test_a_rejection_removes_and_tells_its_reason(self, make_archive: Archive) -> None:
        archive = make_archive(LOGIN_SETTINGS)
        boss, rita = bearer(log_in(archive)["token"]), add_user(archive, "rita", "reader")
        ds = instance()
        archive.authorization = ("Bearer", boss["Authorization"].split()[1])
        archive.store(ds, instance(ds.StudyInstanceUID))
        archive.authorization = None
        series = f"/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}"
        archive.post(f"{series}/reject/113001%5EDCM", headers=rita, status=403)
        assert "113039^DCM" in archive.post(f"{series}/reject/1%5EDCM", headers=boss, status=404).json["reason"]
        archive.post(f"{series}/reject/113001%5EDCM", headers=boss, status=204)
        archive.get(f"{series}/metadata", headers=boss, status=404)
        (entry,) = archive.get("/bin", headers=boss).json["entries"]
        assert entry["instance_uid"] == ds.SOPInstanceUID
        told = records(archive, boss, action="delete", outcome="success")
        assert [one["reason"] for one in told] == ["rejected for quality reasons"]

    def test_who_is_tried_with_basic(self, make_archive: Archive) -> None:
        """A failed login, of the user who was tried, however it was tried; a password in its place is cut off."""
        archive = make_archive(LOGIN_SETTINGS)
        boss, rita = bearer(log_in(archive)["token"]), add_user(archive, "rita", "reader")
        archive.get("/studies", headers=basic("rita", "wrong wrong"), status=401)
        archive.get("/studies", headers=basic("x" * 500, "wrong wrong"), status=401)
        archive.get("/api/profile", headers=basic("walt", "wrong wrong"), status=401)
        archive.get("/api/profile", status=401)
        found = records(archive, boss, action="login", outcome="denied")
        assert [(one["user"], one["kind"]) for one in found] == [
            ("rita", "anonymous"),
            ("x" * 64, "anonymous"),
            ("walt", "anonymous"),
        ]
        archive.delete("/studies/1.2.3", headers=rita, status=403)
        assert [one["action"] for one in records(archive, boss, user="rita", outcome="denied")] == ["login", "delete"]
        assert "wrong wrong" not in json.dumps(records(archive, boss))

    def test_reads_name_the_study_however_it_was_asked_for(self, tmp_path: Path) -> None:
        with opened(tmp_path / "data", LOGIN_SETTINGS) as archive:
            rita, ds = add_user(archive, "rita", "reader"), instance(PatientID="4711")
            archive.authorization = ("Bearer", log_in(archive)["token"])
            archive.store(ds)
            archive.authorization = None
            wado = f"/wado?requestType=WADO&objectUID={ds.SOPInstanceUID}&contentType=application/dicom"
            archive.get(wado, headers=rita)
        with opened(tmp_path / "data", LOGIN_SETTINGS) as archive:
            read = records(archive, bearer(log_in(archive)["token"]), user="rita", action="retrieve")
            assert [(one["study_uid"], one["patient_id"]) for one in read] == [(ds.StudyInstanceUID, "4711")]

    def test_events_come_in_pages(self, make_archive: Archive) -> None:
        archive = make_archive(LOGIN_SETTINGS)
        boss = bearer(log_in(archive)["token"])
        for number in range(4):
            archive.post_json("/login", {"username": f"x{number}", "password": "wrong wrong"}, status=401)
        url = "http://localhost/audit?action=login&outcome=denied&limit=3"
        events: list[Any] = []
        while url:
            answer = archive.get(url, headers={**boss, "Accept": "application/fhir+json"})
            events += [AuditEvent.model_validate(entry["resource"]) for entry in answer.json["entry"]]
            Bundle.model_validate_json(answer.body)
            url = next((link["url"] for link in answer.json["link"] if link["relation"] == "next"), "")
        names = [event.agent[0].who.identifier.value for event in events]
        assert names == ["x0", "x1", "x2", "x3"]

    def test_each_entry_of_a_batch_is_told(self, make_archive: Archive) -> None:
        archive = make_archive(LOGIN_SETTINGS)
        boss, ds = bearer(log_in(archive)["token"]), instance(PatientID="4711")
        archive.post("/studies", envelope([part10(ds)]), headers={"Content-Type": RELATED, **boss})
        study = f"ImagingStudy/{ds.StudyInstanceUID}"
        entries = [
            {"request": {"method": "DELETE", "url": "ImagingStudy/1.2.3"}},
            {
                "request": {"method": "PUT", "url": "Organization/o"},
                "resource": {"resourceType": "Organization", "id": "o", "name": "Nord"},
            },
            {"request": {"method": "DELETE", "url": study}},
        ]
        bundle = {"resourceType": "Bundle", "type": "batch", "entry": entries}
        archive.post_json("/api/fhir", bundle, headers=boss)
        removed = records(archive, boss, action="delete")
        assert [(one["study_uid"], one["patient_id"], one["outcome"]) for one in removed] == [
            ("1.2.3", "", "failed"),
            (ds.StudyInstanceUID, "4711", "success"),
        ]
        (edited,) = records(archive, boss, action="edit")
        assert (edited["object_id"], edited["outcome"]) == ("Organization/o", "success")

    def test_nobody_fills_it(self, make_archive: Archive) -> None:
        """Who is refused many different things is told one by one for a while, then in one record of the minute."""
        archive = make_archive(LOGIN_SETTINGS)
        boss = bearer(log_in(archive)["token"])
        for number in range(MAX_REFUSALS_OF_ADDRESS * 3):  # enough in one minute, also where another begins meanwhile
            archive.get(f"/studies/1.2.{number}/metadata", status=401)
            archive.post_json("/login", {"username": f"x{number}"}, status=400)
            archive.get("/logout")
        found = [one for one in records(archive, boss, limit="1000") if one["kind"] == "anonymous"]
        minutes = len({one["time"][:16] for one in found})
        assert MAX_REFUSALS_OF_ADDRESS < len(found) <= (MAX_REFUSALS_OF_ADDRESS + 10) * minutes
        assert {"(several)"} < {one["what"] for one in found}

    def test_nothing_without_login(self, archive: Client) -> None:
        archive.store(instance())
        archive.get("/audit", status=404)


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    storage, blobs = open_parts(load(overrides={"storage.directory": str(tmp_path / "data")}, environ={}))
    yield storage
    storage.close()
    blobs.close()


class TestReads:
    def test_one_record_for_user_study_and_minute(self, storage: Storage) -> None:
        now = [datetime(2026, 5, 1, 10, 0, 1, tzinfo=UTC)]
        trail = AuditTrail(storage, clock=lambda: now[0])

        def read(user: str, study: str) -> None:
            trail.note(
                AuditRecord(
                    time=trail.now(),
                    action="retrieve",
                    user=user,
                    kind="user",
                    address="10.0.0.1",
                    outcome="success",
                    what="GET /studies/{study_uid}",
                    study_uid=study,
                )
            )

        for _ in range(50):
            read("rita", "1.2.3")
        read("rita", "1.2.4")
        read("walt", "1.2.3")
        trail.flush()
        found, _ = trail.find({"study": "1.2.3"})
        assert sorted((record.user, record.count) for _, record in found) == [("rita", 50), ("walt", 1)]
        for _ in range(10):
            read("rita", "1.2.3")
        now[0] += timedelta(minutes=1)
        read("rita", "1.2.3")
        trail.close()
        found, _ = trail.find({"study": "1.2.3", "user": "rita"})
        assert [record.count for _, record in found] == [60, 1]
        # The record is the same one: what it said before is kept as its older version.
        assert len(storage.document_history(kind=KIND, document_id=found[0][0])) == 2
        assert trail.find({}, since="2026-05-01T10:01")[0][0][1].count == 1
        assert len(list(trail.all({}, until="2026-05-01"))) == 4

    def test_what_is_denied_again_and_again_is_counted(self, storage: Storage) -> None:
        trail = AuditTrail(storage)
        for _ in range(100):
            trail.note(
                AuditRecord(
                    time="2026-05-01T10:00:00.000Z",
                    action="search",
                    user="",
                    kind="anonymous",
                    address="10.0.0.1",
                    outcome="denied",
                    what="GET /studies",
                    status=401,
                )
            )
        assert len(trail.find({})[0]) == 1
        trail.close()
        assert [record.count for _, record in trail.find({})[0]] == [100]

    def test_old_records_go_and_that_is_a_record(
        self, storage: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        trail = AuditTrail(storage)
        for day in range(1, 10):
            trail.note(AuditRecord(**{**RECORD.as_json(), "time": f"2016-01-0{day}T10:00:00.000Z"}))
        data = ["--data", str(tmp_path / "data")]
        for words in (["soon"], ["2999-01-01"], ["2016-01-05", "--user", "anna"]):
            assert main(["audit", *data, "--purge-before", *words]) == 1
        assert len(trail.find({"user": "anna"})[0]) == 9
        assert main(["audit", *data, "--purge-before", "2016-01-05"]) == 0
        assert capsys.readouterr().out == "purged 4 records\n"
        assert next(record.time[:10] for _, record in trail.find({"user": "anna"})[0]) == "2016-01-05"
        (purge,) = (record for _, record in trail.find({"action": "audit"})[0])
        assert (purge.kind, purge.count) == ("command", 4)
        assert purge.what == "purged records of before 2016-01-05T00:00:00.000Z"
        assert purge.user

    def test_retention(self, storage: Storage) -> None:
        now = [datetime(2026, 5, 1, 10, 0, 1, tzinfo=UTC)]
        trail = AuditTrail(storage, clock=lambda: now[0])
        for year in (2014, 2017, 2020, 2026):
            trail.note(AuditRecord(**{**RECORD.as_json(), "time": f"{year}-05-01T10:00:00.000Z"}))
        assert [trail.purge_older(days=3650) for _ in range(2)] == [1, 0]
        now[0] += timedelta(days=400)
        assert trail.purge_older(days=3650) == 1
        trail.close()
        left = [(record.time[:4], record.action, record.count) for _, record in trail.find({})[0]]
        assert left == [("2020", "delete", 1), ("2026", "delete", 1), ("2026", "audit", 1), ("2027", "audit", 1)]

    def test_the_command(self, storage: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        AuditTrail(storage).note(RECORD)
        for form, start in (("text", "2026-05-01T10:20:30.123Z success delete"), ("json", "{"), ("xml", "<?xml")):
            assert main(["audit", "--data", str(tmp_path / "data"), "--user", "anna", "--format", form]) == 0
            assert capsys.readouterr().out.startswith(start)
        assert main(["audit", "--data", str(tmp_path / "data"), "--until", "2026-04-30"]) == 0
        assert capsys.readouterr().out == ""


class TestForms:
    def test_dicom_audit_message(self) -> None:
        root = ElementTree.fromstring(to_message(RECORD, host="pacs"))  # noqa: S314 - made here
        event = root.find("EventIdentification")
        assert event is not None
        assert event.attrib == {
            "EventActionCode": "D",
            "EventDateTime": "2026-05-01T10:20:30.123Z",
            "EventOutcomeIndicator": "0",
        }
        assert event.find("EventID").attrib["csd-code"] == "110105"  # type: ignore[union-attr]
        people = [one.attrib["UserID"] for one in root.iter("ActiveParticipant")]
        assert people == ["anna", "dicomweb-server"]
        assert [one.attrib["ParticipantObjectID"] for one in root.iter("ParticipantObjectIdentification")] == [
            "1.2.3",
            "<P&1>",
        ]

    def test_what_strangers_send_is_not_obeyed(
        self, storage: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A name with control characters breaks neither the message nor the terminal, and forges no line."""
        name = "\x1b[2J\x00anna\n2026-05-01T10:20:30.123Z success"
        record = replace(RECORD, user=name, study_uid="1.2\u202e3")
        root = ElementTree.fromstring(to_message(record, host="pacs"))  # noqa: S314 - made here
        assert "anna" in next(root.iter("ActiveParticipant")).attrib["UserID"]
        AuditTrail(storage).note(record)
        assert main(["audit", "--data", str(tmp_path / "data")]) == 0
        (line,) = capsys.readouterr().out.splitlines()
        assert line.isprintable()

    @pytest.mark.parametrize(
        ("action", "kind", "outcome", "roles"),
        [
            ("search", "user", "success", ["110153", "110152"]),
            ("store", "key", "failed", ["110153", "110152"]),
            ("search", "user", "denied", []),
            ("retrieve", "key", "success", ["110150"]),
            ("login", "user", "success", []),
        ],
    )
    def test_codes_of_participants(self, action: str, kind: str, outcome: str, roles: list[str]) -> None:
        """A person is no application; who sends and who receives is told where the message has places for it."""
        record = replace(RECORD, action=action, kind=kind, outcome=outcome, series_uid="1.2.3.4")
        root = ElementTree.fromstring(to_message(record, host="pacs"))  # noqa: S314 - made here
        assert [one.attrib["csd-code"] for one in root.iter("RoleIDCode")] == roles
        kinds = [one.attrib["csd-code"] for one in root.iter("ParticipantObjectIDTypeCode")]
        assert kinds[:2] == ["110180", "113015"]

    @pytest.mark.parametrize(
        ("action", "outcome", "code", "subtype"),
        [
            ("login", "success", "110114", "110122"),
            ("login", "denied", "110114", "110122"),
            ("search", "success", "110112", None),
            ("retrieve", "denied", "110113", "110132"),
            ("share", "success", "110106", None),
            ("audit", "success", "110101", None),
        ],
    )
    def test_audit_event(self, action: str, outcome: str, code: str, subtype: str | None) -> None:
        record = AuditRecord(**{**RECORD.as_json(), "action": action, "outcome": outcome})
        event = to_audit_event(record, event_id="x")
        assert event["type"]["code"] == code
        assert event.get("subtype", [{"code": None}])[0]["code"] == subtype
        assert event["entity"][0]["what"]["identifier"]["value"] == "urn:oid:1.2.3"


class TestSyslog:
    def test_udp(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind(("127.0.0.1", 0))
            server.settimeout(10)
            sink = SyslogSink(f"udp://127.0.0.1:{server.getsockname()[1]}")
            sink.send(RECORD)
            message = server.recv(65536)
            sink.close()
        assert message.startswith(b"<85>1 2026-05-01T10:20:30.123Z ")
        assert b" DICOM+RFC3881 - \xef\xbb\xbf<?xml" in message

    @pytest.mark.parametrize("scheme", ["tcp", "tls"])
    def test_streams(self, scheme: str, certificate: tuple[Path, Path]) -> None:
        with syslog_server(certificate if scheme == "tls" else None) as (port, received):
            sink = SyslogSink(f"{scheme}://127.0.0.1:{port}", ca_file=str(certificate[0]))
            sink.send(RECORD)
            sink.send(RECORD)
            sink.close()
        data = b"".join(received)
        length, _, rest = data.partition(b" ")
        assert rest[: int(length)].endswith(b"</AuditMessage>")
        assert data.count(b"<85>1 ") == 2

    @pytest.mark.parametrize("url", ["http://x", "udp://", "tcp://x:99999999", "x"])
    def test_what_is_no_address(self, url: str) -> None:
        with pytest.raises(ConfigError, match=r"audit\.syslog"):
            SyslogSink(url)


@contextmanager
def syslog_server(certificate: tuple[Path, Path] | None) -> Iterator[tuple[int, list[bytes]]]:
    """A server that takes one connection to its end."""
    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)

        def serve() -> None:
            connection, _ = listener.accept()
            if certificate is not None:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(*certificate)
                connection = context.wrap_socket(connection, server_side=True)
            with connection:
                connection.settimeout(10)
                while data := connection.recv(65536):
                    received.append(data)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1], received
        thread.join(10)
