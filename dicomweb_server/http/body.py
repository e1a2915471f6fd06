"""The raw payload of a request. Falcon's bounded stream takes a missing length for an empty body, but clients send
large uploads chunked, without a length: the input of the server is read directly."""

from collections.abc import Callable, Iterator

import falcon

from dicomweb_server.errors import BadRequest, TooLarge, UnsupportedMedia

BLOCK_BYTES = 256 * 1024
MAX_LENGTH_BYTES = 1 << 44  # no upload is so long: whoever says so is not to be told that the disk is full


def reader(req: falcon.Request, *, max_bytes: int) -> Callable[[int], bytes]:
    """A function that reads up to n bytes of the payload, b"" at its end.

    Raises BadRequest when there is no payload, TooLarge above max_bytes (0: no limit), UnsupportedMedia for a payload
    in a content coding; the function raises BadRequest when the payload breaks off.
    """
    if (req.get_header("Content-Encoding") or "identity").lower() != "identity":
        raise UnsupportedMedia("the payload must be sent without Content-Encoding")
    stream = req.env["wsgi.input"]
    length = req.content_length
    if length is None:
        if "chunked" not in (req.get_header("Transfer-Encoding") or "").lower():
            raise BadRequest("the request has no payload")
        return _chunked(req, stream.read, max_bytes)
    if length == 0:
        raise BadRequest("the payload is empty")
    if max_bytes and length > max_bytes:
        raise TooLarge(f"the payload is larger than {max_bytes} bytes (stow.max_request_bytes)")
    if length > MAX_LENGTH_BYTES:
        raise TooLarge(f"the Content-Length is above {MAX_LENGTH_BYTES} bytes, which no request may have")
    req.context.received_bytes = length
    return _measured(stream.read, length)


def _measured(read: Callable[[int], bytes], length: int) -> Callable[[int], bytes]:
    left = length

    def read_some(size: int) -> bytes:
        nonlocal left
        if left == 0:
            return b""
        data = _guarded(read, min(size, left))
        if not data:
            raise BadRequest(f"the payload broke off {left} bytes before its Content-Length")
        left -= len(data)
        return data

    return read_some


def _chunked(req: falcon.Request, read: Callable[[int], bytes], max_bytes: int) -> Callable[[int], bytes]:
    total = 0

    def read_some(size: int) -> bytes:
        nonlocal total
        data = _guarded(read, size)
        total += len(data)
        req.context.received_bytes = total
        if max_bytes and total > max_bytes:
            raise TooLarge(f"the payload is larger than {max_bytes} bytes (stow.max_request_bytes)")
        return data

    return read_some


def _guarded(read: Callable[[int], bytes], size: int) -> bytes:
    try:
        return read(size)
    except Exception as exc:  # a broken chunk, a client that went away: each server has exceptions of its own for them
        raise BadRequest("the payload could not be read to its end") from exc


def chunks(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """The whole payload, block by block."""
    while data := read(BLOCK_BYTES):
        yield data
