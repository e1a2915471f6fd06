"""Serving, as a user and a service manager see it: start, refusals, drain, workers, other WSGI servers, the demo."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import requests

from tests.live import ROOT, LiveServer, running, serving, until, wait_until_ready

TIMEOUT_SECONDS = 30


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command that ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "dicomweb_server", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def store(server: LiveServer, data: bytes) -> requests.Response:
    return requests.post(
        f"{server.url}/studies", data=data, headers={"Content-Type": "application/dicom"}, timeout=TIMEOUT_SECONDS
    )


class TestStart:
    def test_it_prints_its_addresses_and_the_folder(self, live_server: LiveServer) -> None:
        shown = live_server.output.read_text(encoding="utf-8").splitlines()
        folder = live_server.output.parent / "data"
        assert [line.split() for line in shown] == [
            ["DICOMweb", live_server.url, f"{live_server.url}/dicom-web"],
            ["Health", f"{live_server.url}/health/ready"],
            ["Data", str(folder)],
        ]
        assert (folder / "index.sqlite").is_file()

    def test_both_prefixes_answer_in_every_worker(self, live_server: LiveServer) -> None:
        assert len(live_server.all_workers()) == 2
        for path in ("/studies", "/dicom-web/studies") * 4:
            answer = requests.get(live_server.url + path, timeout=TIMEOUT_SECONDS)
            assert (answer.status_code, answer.json()) == (200, [])

    def test_a_port_in_use_is_one_sentence(self, live_server: LiveServer, tmp_path: Path) -> None:
        done = command(tmp_path, "serve", "--port", str(live_server.port))
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            f"dicomweb-server: port {live_server.port} on 127.0.0.1 is in use by another program; "
            "choose another with --port\n"
        )

    def test_a_decoder_starts_beside_the_first_search(self, tmp_path: Path) -> None:
        with serving(tmp_path, "--workers", "1", environment={"DICOMWEB__CODEC__WARM_UP": "true"}) as server:
            (worker,) = server.worker_pids()
            decoders = Path(f"/proc/{worker}/task")
            assert not any(thread.read_text() for thread in decoders.glob("*/children"))
            assert requests.get(f"{server.url}/studies", timeout=TIMEOUT_SECONDS).json() == []
            until(lambda: any(thread.read_text() for thread in decoders.glob("*/children")))

    def test_a_worker_that_dies_is_replaced(self, tmp_path: Path) -> None:
        with serving(tmp_path, "--workers", "1") as server:
            (worker,) = server.worker_pids()
            os.kill(worker, signal.SIGKILL)
            wait_until_ready(server.process, server.url, server.log)
            assert server.worker_pids() != [worker]
            assert server.stop() == 0


class TestRefusals:
    def test_an_unknown_key_stops_the_start(self, tmp_path: Path) -> None:
        (tmp_path / "site.toml").write_text("[server]\nprot = 1\n", encoding="utf-8")
        done = command(tmp_path, "--config", "site.toml")
        assert done.returncode == 1
        assert done.stderr == 'dicomweb-server: site.toml: "server.prot" is not known; did you mean "server.port"?\n'

    def test_an_unknown_storage_lists_the_known(self, tmp_path: Path) -> None:
        (tmp_path / "site.toml").write_text('[storage]\nbackend = "mango"\n', encoding="utf-8")
        done = command(tmp_path, "serve", "--config", "site.toml", "--port", "0")
        assert done.returncode == 1
        assert 'there is no storage "mango"' in done.stderr
        assert "Traceback" not in done.stderr

    def test_a_public_address_needs_consent(self, tmp_path: Path) -> None:
        done = command(tmp_path, "serve", "--host", "0.0.0.0", "--port", "0")  # noqa: S104
        assert done.returncode == 1
        assert "server.allow_public_without_login" in done.stderr

    def test_a_folder_that_cannot_be_made_stops_the_start(self, tmp_path: Path) -> None:
        (tmp_path / "taken").write_text("a file", encoding="utf-8")
        done = command(tmp_path, "serve", "--port", "0", "--workers", "1", "--data", "taken/data")
        assert (done.returncode, done.stdout) == (1, "")
        assert "cannot start" in done.stderr
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize("arguments", [("frob",), ("serve", "--port", "x"), ("config", "--frob")])
    def test_wrong_usage_has_status_2(self, tmp_path: Path, arguments: tuple[str, ...]) -> None:
        assert command(tmp_path, *arguments).returncode == 2


class TestHttp:
    def test_what_is_no_http_gets_the_error_shape(self, live_server: LiveServer) -> None:
        with socket.create_connection(("127.0.0.1", live_server.port), TIMEOUT_SECONDS) as connection:
            connection.sendall(b"GET /studies?PatientName=Secret HTTP/7\r\n\r\n")
            answer = connection.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert b'"reason":"the request is no valid HTTP"' in answer
        assert "Secret" not in live_server.log.read_text(encoding="utf-8")

    @pytest.mark.parametrize(("size", "status"), [(7000, 200), (130_000, 414)])
    def test_a_long_query_is_answered_or_refused(self, live_server: LiveServer, size: int, status: int) -> None:
        query = "StudyInstanceUID=" + ",".join(["1.2.3"] * (size // 6))
        assert requests.get(f"{live_server.url}/studies?{query}", timeout=TIMEOUT_SECONDS).status_code == status

    def test_header_bombs_are_refused(self, live_server: LiveServer) -> None:
        for headers in ({"X-A": "b" * 100_000}, {f"X-{n}": "v" for n in range(2000)}):
            answer = requests.get(f"{live_server.url}/studies", headers=headers, timeout=TIMEOUT_SECONDS)
            assert (answer.status_code, answer.json()["status"]) == (431, 431)

    def test_a_client_that_expects_100_is_told_to_go_on(self, live_server: LiveServer, sample_folder: Path) -> None:
        data = (sample_folder / "CT_small.dcm").read_bytes()
        head = (
            f"POST /studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/dicom\r\nExpect: 100-continue\r\n"
            f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", live_server.port), TIMEOUT_SECONDS) as connection:
            connection.sendall(head.encode())
            stream = connection.makefile("rb")
            assert stream.readline() == b"HTTP/1.1 100 Continue\r\n"
            assert stream.readline() == b"\r\n"
            connection.sendall(data)
            assert stream.readline().startswith(b"HTTP/1.1 200 ")

    def test_pipelined_requests_on_a_connection_that_is_half_closed(self, live_server: LiveServer) -> None:
        """What the connection remembers of header fields keeps each request apart from the next."""
        same = b"Host: localhost\r\nAccept: application/json\r\n\r\n"
        chunked = b"1\r\na\r\n0\r\nX-A: b\r\n\r\n"
        sent = [
            (b"GET /health/live HTTP/1.1\r\n" + same, 200),
            (b"GET /health/live HTTP/1.1\r\n" + same, 200),
            (b"HEAD /studies HTTP/1.1\r\n" + same, 200),
            (b"GET /nothing HTTP/1.1\r\n" + same, 404),
            (b"GET /health/live?" + b"a" * 6000 + b" HTTP/1.1\r\n" + same, 200),
            (b"POST /studies HTTP/1.1\r\nContent-Length: 5\r\n" + same + b"GET /", 415),
            (b"POST /studies HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + same + chunked, 415),
            (b"GET /health/live HTTP/1.1\r\n" + same, 200),
            (b"GET /health/live HTTP/1.0\r\nConnection: keep-alive\r\n" + same, 200),
            (b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
        ]
        with socket.create_connection(("127.0.0.1", live_server.port), timeout=TIMEOUT_SECONDS) as connection:
            connection.sendall(b"".join(data for data, _ in sent))
            connection.shutdown(socket.SHUT_WR)
            received = b"".join(iter(lambda: connection.recv(65536), b""))
        assert [int(found) for found in re.findall(rb"HTTP/1\.[01] (\d{3}) ", received)] == [code for _, code in sent]

    def test_clients_that_do_not_close_hold_up_nobody(self, tmp_path: Path) -> None:
        request = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        with serving(tmp_path, "--workers", "1") as server, ExitStack() as stack:
            for _ in range(3):
                connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), TIMEOUT_SECONDS))
                connection.sendall(request)
                assert connection.makefile("rb").read().startswith(b"HTTP/1.1 200 ")
            # gunicorn would wait two seconds for each of them before it accepts the next.
            assert requests.get(f"{server.url}/health/live", timeout=1.5).status_code == 200

    def test_a_silent_client_is_dropped(self, tmp_path: Path) -> None:
        environment = {"DICOMWEB__SERVER__TIMEOUT_SECONDS": "1"}
        with serving(tmp_path, "--workers", "1", environment=environment) as server:
            with socket.create_connection(("127.0.0.1", server.port), TIMEOUT_SECONDS) as connection:
                connection.sendall(b"POST /studies HTTP/1.1\r\nHost: localhost\r\nContent-Le")
                assert connection.recv(1) == b""
            assert requests.get(f"{server.url}/health/live", timeout=TIMEOUT_SECONDS).status_code == 200
            assert "Traceback" not in server.log.read_text(encoding="utf-8")


class TestDrain:
    def test_a_running_upload_is_finished(self, tmp_path: Path, sample_folder: Path) -> None:
        """SIGTERM in the middle of a request: it is answered, new connections are refused, then the process ends."""
        data = (sample_folder / "CT_small.dcm").read_bytes()
        begun, stopping = threading.Event(), threading.Event()

        def slowly() -> Iterator[bytes]:
            yield data[:1000]
            begun.set()
            stopping.wait(TIMEOUT_SECONDS)
            yield data[1000:]

        answers: list[requests.Response] = []
        with serving(tmp_path, "--workers", "2") as server:

            def upload() -> None:
                answers.append(
                    requests.post(
                        f"{server.url}/studies",
                        data=slowly(),
                        headers={"Content-Type": "application/dicom"},
                        timeout=TIMEOUT_SECONDS,
                    )
                )

            client = threading.Thread(target=upload)
            client.start()
            assert begun.wait(TIMEOUT_SECONDS)
            server.process.send_signal(signal.SIGTERM)
            with suppress(requests.ConnectionError):
                while True:  # until the listening socket is closed, for which the process has to notice the signal
                    requests.get(f"{server.url}/health/live", timeout=TIMEOUT_SECONDS)
            assert client.is_alive()
            stopping.set()
            client.join(TIMEOUT_SECONDS)
            assert [answer.status_code for answer in answers] == [200]
            assert server.process.wait(TIMEOUT_SECONDS) == 0
        with serving(tmp_path) as server:
            assert len(requests.get(f"{server.url}/instances", timeout=TIMEOUT_SECONDS).json()) == 1

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_an_idle_server_ends_without_error(self, tmp_path: Path, number: signal.Signals) -> None:
        with serving(tmp_path) as server:
            server.process.send_signal(number)
            assert server.process.wait(TIMEOUT_SECONDS) == 0
            assert "Traceback" not in server.log.read_text(encoding="utf-8")


class TestOtherWaysToStart:
    @pytest.mark.parametrize("options", [(), ("--preload",), ("-c", str(ROOT / "config" / "gunicorn.conf.py"))])
    def test_gunicorn_serves_the_wsgi_callable(
        self, tmp_path: Path, sample_folder: Path, options: tuple[str, ...]
    ) -> None:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        log = tmp_path / "log.txt"
        gunicorn = (sys.executable, "-m", "gunicorn", "--workers", "2", "--no-control-socket")
        with log.open("wb") as err:
            process = subprocess.Popen(
                [*gunicorn, *options, "--bind", f"127.0.0.1:{port}", "dicomweb_server.wsgi:app"],
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": str(ROOT), "DICOMWEB__STORAGE__DIRECTORY": "here"},
                stderr=err,
            )
        try:
            wait_until_ready(process, url, log)
            server = LiveServer(url=url, process=process, output=log, log=log)
            assert store(server, (sample_folder / "CT_small.dcm").read_bytes()).status_code == 200
            for _ in range(4):
                assert len(requests.get(f"{url}/studies", timeout=TIMEOUT_SECONDS).json()) == 1
            assert (tmp_path / "here" / "index.sqlite").is_file()
            assert server.stop() == 0
        finally:
            process.kill()
            process.wait()

    def test_an_archive_that_cannot_be_opened_answers_503(self, tmp_path: Path) -> None:
        (tmp_path / "taken").write_text("a file", encoding="utf-8")
        code = (
            "from dicomweb_server.wsgi import app\n"
            "def start(status, headers): print(status, dict(headers)['Retry-After'])\n"
            "print(b''.join(app({'REQUEST_METHOD': 'GET', 'PATH_INFO': '/studies'}, start)).decode())\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": str(ROOT), "DICOMWEB__STORAGE__DIRECTORY": str(tmp_path / "taken" / "x")},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=True,
        )
        assert done.stdout.startswith("503 Service Unavailable 5\n")
        assert str(tmp_path) not in done.stdout


class TestCommands:
    def test_config_prints_what_can_be_loaded_again(self, tmp_path: Path) -> None:
        (tmp_path / "site.toml").write_text('[log]\nformat = "json"\n', encoding="utf-8")
        first = command(tmp_path, "config", "--config", "site.toml", "--port", "8042")
        lines = {line.partition(" ")[0]: line for line in first.stdout.splitlines()}
        assert lines["port"].split() == ["port", "=", "8042", "#", "command", "line"]
        assert lines["format"].endswith("# file site.toml")
        assert lines["threads"].endswith("# default")
        (tmp_path / "again.toml").write_text(first.stdout, encoding="utf-8")
        again = command(tmp_path, "config", "--config", "again.toml")
        assert [line.partition(" #")[0].rstrip() for line in again.stdout.splitlines()] == [
            line.partition(" #")[0].rstrip() for line in first.stdout.splitlines()
        ]

    @pytest.mark.parametrize("name", ["serve", "demo", "config"])
    def test_each_command_explains_itself_with_an_example(self, tmp_path: Path, name: str) -> None:
        done = command(tmp_path, name, "--help")
        assert done.returncode == 0
        assert f"Example: dicomweb-server {name}" in done.stdout

    def test_the_demo_holds_samples_and_leaves_nothing_behind(self, tmp_path: Path) -> None:
        with running(tmp_path, "demo", "--port", "0", environment={"TMPDIR": str(tmp_path)}) as server:
            (folder,) = tmp_path.glob("dicomweb-demo-*")
            studies = requests.get(f"{server.url}/studies", timeout=TIMEOUT_SECONDS).json()
            assert len(studies) == 11
            os.kill(server.worker_pids()[0], signal.SIGKILL)
            wait_until_ready(server.process, server.url, server.log)
            assert folder.is_dir()
            assert server.stop() == 0
            assert not folder.exists()
