"""Log lines: text and JSON, no lines forged by a client."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from dicomweb_server import logs
from dicomweb_server.commands import serve
from dicomweb_server.settings import LogSettings, Settings

LOGGERS = ("dicomweb_server", "backends", "gunicorn.error")


@pytest.fixture(autouse=True)
def loggers_as_before() -> Iterator[None]:
    before = {name: (log.handlers, log.propagate, log.level) for name in LOGGERS if (log := logging.getLogger(name))}
    yield
    for name, (handlers, propagate, level) in before.items():
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def logged(log: LogSettings, *, name: str = "dicomweb_server.access") -> str:
    stream = io.StringIO()
    logs.configure(log, stream=stream)
    logging.getLogger(name).info("GET %s", "/studies\n2026 forged", extra={"request_id": "abc"})
    return stream.getvalue()


def test_text_is_one_line_with_the_request_id() -> None:
    line = logged(LogSettings())
    assert line.endswith("Z INFO dicomweb_server.access [abc] GET /studies\\n2026 forged\n")
    assert line.count("\n") == 1


def test_json_holds_message_and_extra() -> None:
    entry = json.loads(logged(LogSettings(format="json")))
    assert (entry["level"], entry["logger"], entry["request_id"]) == ("info", "dicomweb_server.access", "abc")
    assert entry["message"] == "GET /studies\n2026 forged"


def test_the_level_filters_and_hides_the_chatter_of_gunicorn() -> None:
    assert logged(LogSettings(level="warning")) == ""
    assert logged(LogSettings(), name="gunicorn.error") == ""
    assert logged(LogSettings(level="debug"), name="gunicorn.error") != ""


def test_a_traceback_follows() -> None:
    stream = io.StringIO()
    logs.configure(LogSettings(), stream=stream)
    logging.getLogger("dicomweb_server").error("failed", exc_info=ValueError("why"))
    assert stream.getvalue().splitlines()[-1] == "ValueError: why"


def test_a_server_that_logs_json_prints_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    settings = Settings(log=LogSettings(format="json"))
    logs.configure(settings.log, stream=stream)
    serve.announce(settings, "http://localhost:5985")
    entry = json.loads(stream.getvalue())
    assert (entry["message"], entry["health"]) == ("serving", "http://localhost:5985/health/ready")
    assert entry["dicomweb"] == "http://localhost:5985  http://localhost:5985/dicom-web"
    assert capsys.readouterr().out == ""
    serve.announce(Settings(), "http://localhost:5985")
    assert capsys.readouterr().out.startswith("DICOMweb  http://localhost:5985")
