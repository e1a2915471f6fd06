"""The Capabilities Description (PS3.18 8.9 and Annex H): the route table as a WADL document."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from xml.sax.saxutils import quoteattr

from dicomweb_server.http.description.openapi import fields_of
from dicomweb_server.http.table import Operation, Route

MEDIA_TYPE = "application/vnd.sun.wadl+xml"
NAMESPACE = "http://wadl.dev.java.net/2009/02"

_TYPES = {"integer": "xs:integer", "boolean": "xs:boolean", "number": "xs:decimal"}


@dataclass
class _Resource:
    """A segment of a path, what it answers, and what lies below it."""

    operations: list[tuple[str, Operation]] = field(default_factory=list)
    below: dict[str, "_Resource"] = field(default_factory=dict)


def wadl(routes: Iterable[Route], *, base: str) -> bytes:
    """The document in UTF-8. `base` is the Base URI of the service."""
    root = _Resource()
    for entry in routes:
        at = root
        for segment in filter(None, entry.template.split("/")):
            at = at.below.setdefault(segment.replace(":path", ""), _Resource())
        at.operations += entry.operations.items()
    body = "".join([*_methods(root), *_children(root)])
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<application xmlns="{NAMESPACE}" xmlns:xs="http://www.w3.org/2001/XMLSchema">'
        f"<resources base={quoteattr(base + '/')}>"
        f'<resource path="">{body}</resource></resources></application>'
    ).encode()


def _children(resource: _Resource) -> Iterator[str]:
    for segment, child in resource.below.items():
        yield f"<resource path={quoteattr(segment)}>"
        for name in fields_of(segment):
            yield f'<param name={quoteattr(name)} style="template" type="xs:string" required="true"/>'
        yield from _methods(child)
        yield from _children(child)
        yield "</resource>"


def _methods(resource: _Resource) -> Iterator[str]:
    for method, operation in resource.operations:
        yield f"<method name={quoteattr(method)} id={quoteattr(_identity(operation))}><request>"
        if len(operation.gives) > 1:
            yield f'<param name="Accept" style="header" type="xs:string" default={quoteattr(operation.gives[0])}>'
            yield from (f"<option value={quoteattr(media)}/>" for media in operation.gives)
            yield "</param>"
        for parameter in operation.query:
            kind = _TYPES.get(str(parameter.schema.get("type")), "xs:string")
            required = "true" if parameter.required else "false"
            yield (
                f'<param name={quoteattr(parameter.name)} style="query" type="{kind}" required="{required}"'
                f' repeating="{"true" if parameter.repeated else "false"}"/>'
            )
        yield from (f"<representation mediaType={quoteattr(media)}/>" for media in operation.takes)
        yield "</request>"
        for status in operation.statuses:
            yield f'<response status="{status}">'
            if status != 204:
                yield from (f"<representation mediaType={quoteattr(media)}/>" for media in operation.gives)
            yield "</response>"
        yield "</method>"


def _identity(operation: Operation) -> str:
    """A name for the method, such as SearchForStudies."""
    words = "".join(c if c.isalnum() else " " for c in operation.summary).split()
    return "".join(word[0].upper() + word[1:] for word in words)
