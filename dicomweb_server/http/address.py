"""At which address the client reaches this server: what URLs in answers begin with, and what counts as its own
origin."""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import falcon

from dicomweb_server.errors import BadRequest

_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>\d{1,5}))?\Z")
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]+)*\Z")
_X_FORWARDED = ("HTTP_X_FORWARDED_HOST", "HTTP_X_FORWARDED_PROTO", "HTTP_X_FORWARDED_PORT", "HTTP_X_FORWARDED_PREFIX")
_DEFAULT_PORTS = {"http": "80", "https": "443"}


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressRules:
    """How the address of a request is found.

    public_url: the root of this server as clients see it; wins over everything else. Empty: follow the request.
    trusted_proxies: addresses and networks whose Forwarded and X-Forwarded-* headers are believed.
    allowed_hosts: host names that a request may be addressed to; "*" allows any.
    prefixes: where the DICOMweb routes are mounted.
    """

    public_url: str
    trusted_proxies: tuple[str, ...]
    allowed_hosts: frozenset[str]
    prefixes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Address:
    """The root of this server as the client sees it, and the DICOMweb root that this request used."""

    root: str
    dicomweb: str

    @property
    def origin(self) -> str:
        """Scheme, host and port, as a browser writes them in Origin."""
        scheme, _, rest = self.root.partition("://")
        host = rest.partition("/")[0]
        return f"{scheme}://{host.removesuffix(':' + _DEFAULT_PORTS.get(scheme, ''))}"


def address_of(req: falcon.Request, rules: AddressRules) -> Address:
    """The address of a request. Raises BadRequest for a Host that is malformed or not one of ours."""
    get = req.env.get
    seen = _Seen(
        host=get("HTTP_HOST") or req.env["SERVER_NAME"],
        scheme=req.env["wsgi.url_scheme"],
        port=get("SERVER_PORT", ""),
        mounted=get("SCRIPT_NAME", ""),
        peer=get("REMOTE_ADDR", ""),
        forwarded=get("HTTP_FORWARDED"),
        x_forwarded=tuple(map(get, _X_FORWARDED)),
    )
    root = _root(seen, rules)
    return Address(root, root + _mount(req.path, rules.prefixes))


class _Seen(NamedTuple):
    """What a request says about addresses; few different ones reach a server."""

    host: str
    scheme: str
    port: str
    mounted: str
    peer: str
    forwarded: str | None
    x_forwarded: tuple[str | None, ...]


@lru_cache(maxsize=512)
def _root(seen: _Seen, rules: AddressRules) -> str:
    told = _told_by_proxy(seen) if _is_trusted(seen.peer, rules.trusted_proxies) else {}
    parsed = _HOST.match(told.get("host", seen.host).strip())
    if parsed is None:
        raise BadRequest("the Host header is malformed")
    name = parsed["name"].lower()
    if "*" not in rules.allowed_hosts and name not in rules.allowed_hosts:
        raise BadRequest("the Host of the request is not one of this server's (http.allowed_hosts)")
    if rules.public_url:
        return rules.public_url
    scheme = told.get("proto", seen.scheme)
    port = parsed["port"] or told.get("port")
    if port is None and not told and _is_direct(name):
        # dicomweb_client leaves the port out of Host; nothing else would make its URLs work.
        port = seen.port
    shown = name if not port or port == _DEFAULT_PORTS.get(scheme) else f"{name}:{port}"
    return f"{scheme}://{shown}{told.get('prefix', '')}{seen.mounted}"


@lru_cache(maxsize=1024)
def _is_trusted(address: str, networks: tuple[str, ...]) -> bool:
    try:
        peer = ipaddress.ip_address(_unmapped(address))
    except ValueError:  # a Unix socket has no address: only what runs on this machine can reach it
        return address == ""
    return any(peer in ipaddress.ip_network(network, strict=False) for network in networks)


def _mount(path: str, prefixes: Sequence[str]) -> str:
    """The prefix under which a path was asked for: the longest that fits."""
    fitting = [p for p in prefixes if p == "" or path == p or path.startswith(p + "/")]
    return max(fitting, key=len, default="")


def _is_direct(name: str) -> bool:
    """Names that no virtual host uses: localhost and plain addresses."""
    if name == "localhost":
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _told_by_proxy(seen: _Seen) -> dict[str, str]:
    """host, proto, port and prefix as the nearest proxy tells them; Forwarded (RFC 7239) wins over X-Forwarded-*."""
    host, proto, port, prefix = map(_last, seen.x_forwarded)
    if seen.forwarded:
        pairs = [pair.partition("=") for pair in (_last(seen.forwarded) or "").split(";")]
        named = {name.strip().lower(): value.strip().strip('"') for name, _, value in pairs}
        host, proto, port = named.get("host"), named.get("proto"), None
    proto, prefix = (proto or "").lower(), (prefix or "").rstrip("/")
    checked = {
        "host": host,
        "proto": proto if proto in _DEFAULT_PORTS else None,
        "port": port if port and port.isdigit() else None,
        "prefix": prefix if _PREFIX.match(prefix) else None,
    }
    return {key: value for key, value in checked.items() if value}


def _last(header: str | None) -> str | None:
    return header.rpartition(",")[2].strip() if header else None


def client_address(req: falcon.Request, trusted_proxies: tuple[str, ...]) -> str:
    """Where a request comes from: the peer, or behind trusted proxies what the first of them saw; empty for a Unix
    socket without a proxy. What comes before an address that is not trusted can be invented, and is not read."""
    address = str(req.env.get("REMOTE_ADDR", ""))
    forwarded = req.env.get("HTTP_FORWARDED")
    if forwarded:
        pieces = [pair.partition("=") for hop in forwarded.split(",") for pair in hop.split(";")]
        hops = [value.strip().strip('"') for name, _, value in pieces if name.strip().lower() == "for"]
    else:
        hops = [hop.strip() for hop in req.env.get("HTTP_X_FORWARDED_FOR", "").split(",") if hop.strip()]
    while hops and _is_trusted(address, trusted_proxies):
        address = _bare(hops.pop())
    return _unmapped(address)[:64]


def _unmapped(address: str) -> str:
    """The IPv4 address that a socket for both kinds shows as IPv6 (::ffff:10.0.0.1, RFC 4291 2.5.5.2)."""
    if address[:7].lower() != "::ffff:":
        return address
    try:
        mapped = ipaddress.IPv6Address(address).ipv4_mapped
    except ValueError:
        return address
    return str(mapped) if mapped else address


def _bare(hop: str) -> str:
    """The address of a hop without its port."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
