"""The pool: same answers as in this process, and every way in which a codec process can fail."""

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from dicomweb_server.codec import syntaxes, tasks
from dicomweb_server.codec.given_up import GivenUp
from dicomweb_server.codec.options import RenderOptions, parse_window
from dicomweb_server.codec.pool import CodecPool
from dicomweb_server.codec.presentation import frame_attributes
from dicomweb_server.errors import BadPixels, BadRequest, CodecBusy, CodecError, DecoderFailed, MissingCodec
from tests.unit.codec.files import Sample, sample

NAMES = ["MR_small_RLE.dcm", "SC_rgb_jpeg_dcmtk.dcm", "examples_jpeg2k.dcm", "CT_small.dcm", "liver_1frame.dcm"]


@pytest.fixture(scope="module")
def pool() -> Iterator[CodecPool]:
    made = CodecPool(processes=2)
    yield made
    made.close()


@pytest.fixture(scope="module")
def broken() -> Iterator[CodecPool]:
    made = CodecPool(
        processes=1, timeout_seconds=0.5, queue_seconds=0.2, worker_module="tests.unit.codec.broken_worker"
    )
    yield made
    made.close()


@pytest.mark.parametrize("name", NAMES)
class TestSameAsHere:
    def test_decode(self, pool: CodecPool, name: str) -> None:
        item = sample(name)
        ours = pool.decode(item.description, item.transfer_syntax_uid, item.frame())
        here = tasks.decode(item.description, item.transfer_syntax_uid, item.frame(), rgb=False)
        assert np.array_equal(ours.array, here.array)
        assert (ours.array.dtype, ours.description) == (here.array.dtype, here.description)

    def test_transcode(self, pool: CodecPool, name: str) -> None:
        item = sample(name)
        ours = pool.transcode(item.description, item.transfer_syntax_uid, item.frame())
        assert ours == tasks.transcode(item.description, item.transfer_syntax_uid, item.frame())

    def test_render(self, pool: CodecPool, name: str) -> None:
        item = sample(name)
        options = RenderOptions(window=parse_window("400,800"), annotation=("A",), rows=64)
        frames = [(0, item.frame())]
        ours = pool.render(
            item.header.attributes,
            item.transfer_syntax_uid,
            frames,
            options=options,
            media="image/png",
            fetch_bulk=item.fetch_bulk,
        )
        flat = frame_attributes(item.header.attributes, 0, fetch_bulk=item.fetch_bulk)
        here = tasks.render([flat], item.transfer_syntax_uid, [item.frame()], options=options, media="image/png")
        assert ours == here

    def test_thumbnail(self, pool: CodecPool, name: str) -> None:
        item = sample(name)
        data = pool.thumbnail(item.header.attributes, item.transfer_syntax_uid, (0, item.frame()))
        assert data.startswith(b"\xff\xd8\xff")


def _mr() -> Sample:
    return sample("MR_small_RLE.dcm")


def test_transcoding_between_compressed_syntaxes(pool: CodecPool) -> None:
    item = _mr()
    made = pool.transcode(item.description, item.transfer_syntax_uid, item.frame(), target=syntaxes.JPEG_LS)
    back = pool.decode(made.description, syntaxes.JPEG_LS, made.data)
    assert np.array_equal(back.array, item.reference(0))


class TestErrorsOfTheCaller:
    def test_broken_pixels_are_named_and_the_process_lives_on(self, broken: CodecPool) -> None:
        item = _mr()
        first, _ = broken.run({"operation": "echo"}, [])
        with pytest.raises(BadPixels, match="RLE"):
            broken.decode(item.description, item.transfer_syntax_uid, item.frame()[:100])
        assert broken.run({"operation": "echo"}, [])[0]["process"] == first["process"]

    def test_a_viewport_outside_of_the_image(self, pool: CodecPool) -> None:
        item = _mr()
        options = RenderOptions(viewport=None, region=None, rows=10)
        assert pool.render(item.header.attributes, item.transfer_syntax_uid, [(0, item.frame())], options=options)
        with pytest.raises(BadRequest):
            pool.render(item.header.attributes, item.transfer_syntax_uid, [])

    def test_a_missing_decoder_starts_no_process(self) -> None:
        unused = CodecPool(worker_module="no.such.module")
        with pytest.raises(MissingCodec):
            unused.decode(_mr().description, "1.2.3", b"")
        unused.close()


class TestProcessesThatFail:
    def test_a_crash_costs_one_request(self, broken: CodecPool) -> None:
        first, _ = broken.run({"operation": "echo"}, [])
        with pytest.raises(DecoderFailed, match="SIGSEGV"):
            broken.run({"operation": "crash"}, [])
        second, pieces = broken.run({"operation": "echo"}, [b"ab", b""])
        assert pieces == [b"ab", b""]
        assert second["process"] != first["process"]

    def test_a_task_that_hangs_is_given_up(self, broken: CodecPool) -> None:
        started = time.monotonic()
        with pytest.raises(DecoderFailed, match="longer than"):
            broken.run({"operation": "hang"}, [])
        assert time.monotonic() - started < 5
        assert broken.run({"operation": "echo"}, [])[1] == []

    def test_what_failed_is_not_tried_again_at_once(self, broken: CodecPool) -> None:
        with pytest.raises(DecoderFailed, match="SIGSEGV"):
            broken.run({"operation": "crash"}, [b"frame"])
        process = broken.run({"operation": "echo"}, [])[0]["process"]
        with pytest.raises(DecoderFailed, match="a minute later"):
            broken.run({"operation": "crash"}, [b"frame"])
        assert broken.run({"operation": "echo"}, [b"frame"])[0]["process"] == process

    def test_memory_is_limited(self, broken: CodecPool) -> None:
        with pytest.raises(DecoderFailed, match="memory"):
            broken.run({"operation": "exhaust"}, [])

    def test_a_decompression_bomb_is_refused(self, broken: CodecPool) -> None:
        huge = replace(_mr().description, rows=65535, columns=65535)
        with pytest.raises(BadPixels, match="larger than"):
            broken.decode(huge, syntaxes.RLE, _mr().frame())

    def test_an_unknown_operation_is_an_error_of_ours(self, broken: CodecPool) -> None:
        with pytest.raises(CodecError):
            broken.run({"operation": "nothing"}, [])

    def test_who_waits_too_long_is_told_so(self, broken: CodecPool) -> None:
        broken.warm_up()
        outcome: list[Exception] = []

        def hang() -> None:
            try:
                broken.run({"operation": "hang"}, [b"for another"])
            except DecoderFailed as exc:
                outcome.append(exc)

        thread = threading.Thread(target=hang)
        thread.start()
        while broken._free.qsize():  # until the only process is taken
            pass
        with pytest.raises(CodecBusy):
            broken.run({"operation": "echo"}, [])
        thread.join()
        assert len(outcome) == 1

    def test_a_process_that_cannot_start_is_an_error_of_ours(self) -> None:
        hopeless = CodecPool(worker_module="no.such.module")
        with pytest.raises(CodecError, match="did not start"):
            hopeless.warm_up()
        hopeless.close()


class TestGivenUp:
    def test_for_a_minute(self) -> None:
        now = [0.0]
        given_up = GivenUp(clock=lambda: now[0])
        given_up.note("decode", [b"a", b"b"], DecoderFailed("it hung"))
        for other in ([b"ab"], [b"a"], []):
            given_up.check("decode", other)
        given_up.check("thumbnail", [b"a", b"b"])
        now[0] = 59.0
        with pytest.raises(DecoderFailed, match="it hung"):
            given_up.check("decode", [b"a", b"b"])
        now[0] = 61.0
        given_up.check("decode", [b"a", b"b"])

    def test_only_so_many_are_remembered(self) -> None:
        given_up = GivenUp()
        for number in range(2000):
            given_up.note("decode", [str(number).encode()], DecoderFailed("it hung"))
        given_up.check("decode", [b"0"])
        with pytest.raises(DecoderFailed):
            given_up.check("decode", [b"1999"])


def test_no_secret_reaches_a_process(broken: CodecPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DICOMWEB__AUTH__SECRET", "x")
    with pytest.raises(DecoderFailed):
        broken.run({"operation": "crash"}, [b"for another"])
    answer, _ = broken.run({"operation": "echo"}, [])
    assert not any(name.startswith("DICOMWEB") for name in answer["environment"])


def test_many_threads_share_the_pool(pool: CodecPool) -> None:
    item = _mr()
    expected = item.reference(0).tobytes()
    wrong: list[int] = []

    def work() -> None:
        for _ in range(10):
            if pool.transcode(item.description, item.transfer_syntax_uid, item.frame()).data != expected:
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_process_that_was_started_beforehand_is_the_one_that_is_used() -> None:
    made = CodecPool(processes=2, worker_module="tests.unit.codec.broken_worker")
    made.warm_up()
    assert made.pids() == [made.run({"operation": "echo"}, [])[0]["process"]]
    made.close()


def test_what_cannot_be_loaded_beforehand_is_no_error_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    failed: list[object] = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    hopeless = CodecPool(worker_module="no.such.module")
    hopeless.warm_up_beside()
    for thread in threading.enumerate():
        if thread.name == "codec-warm-up":
            thread.join()
    assert not failed
    hopeless.close()


def test_a_closed_pool_ends_its_processes() -> None:
    made = CodecPool(processes=1, worker_module="tests.unit.codec.broken_worker")
    process = made.run({"operation": "echo"}, [])[0]["process"]
    made.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    with pytest.raises(CodecError, match="closed"):
        made.warm_up()
