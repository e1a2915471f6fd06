"""What a client asks of a picture, from the query parameters of WADO-RS (PS3.18 8.3.5.1) and of WADO-URI (9.1.2.2)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dicomweb_server.codec.annotation import parse_annotation, patient_lines, technique_lines
from dicomweb_server.codec.options import (
    RenderOptions,
    make_window,
    parse_quality,
    parse_region,
    parse_side,
    parse_viewport,
    parse_window,
)
from dicomweb_server.dicom.json_model import Attributes
from dicomweb_server.errors import BadRequest

Parameters = Mapping[str, str]
"""Query parameters by name in lower case. An empty one is not the same as none: no option has an empty value."""

_Parsers = Mapping[str, tuple[str, Callable[[str], Any]]]

_RS: _Parsers = {
    "window": ("window", parse_window),
    "viewport": ("viewport", parse_viewport),
    "quality": ("quality", parse_quality),
    "iccprofile": ("iccprofile", str.lower),
}
_URI: _Parsers = {
    "region": ("region", parse_region),
    "rows": ("rows", parse_side),
    "columns": ("columns", parse_side),
    "imagequality": ("quality", parse_quality),
    "iccprofile": ("iccprofile", str.lower),
}
URI_NAMES = frozenset({*_URI, "annotation", "windowcenter", "windowwidth", "framenumber"})
"""What says in a WADO-URI request how a picture looks."""


@dataclass(frozen=True, slots=True)
class PictureOptions:
    """Options of rendering, and which texts are to be burnt in: those differ from instance to instance."""

    render: RenderOptions = field(default_factory=RenderOptions)
    annotation: frozenset[str] = frozenset()

    def of(self, attributes: Attributes) -> RenderOptions:
        """The options for one instance."""
        if not self.annotation:
            return self.render
        return replace(
            self.render,
            annotation=patient_lines(attributes) if "patient" in self.annotation else (),
            technique=technique_lines(attributes) if "technique" in self.annotation else (),
        )

    def identity(self) -> str:
        """A text that is the same for the same options only."""
        return f"{self.render!r}{sorted(self.annotation)}"


def rs_options(parameters: Parameters) -> PictureOptions:
    """The options of a WADO-RS request. Raises BadRequest for a value that none of them has."""
    return _options(parameters, _RS)


def uri_options(parameters: Parameters) -> PictureOptions:
    """The options of a WADO-URI request; as `rs_options`."""
    options = _options(parameters, _URI)
    center, width = parameters.get("windowcenter"), parameters.get("windowwidth")
    if center is None and width is None:
        return options
    if center is None or width is None:
        raise BadRequest("windowCenter and windowWidth go together")
    return replace(options, render=replace(options.render, window=make_window(center, width)))


def _options(parameters: Parameters, parsers: _Parsers) -> PictureOptions:
    found = {name: parse(parameters[key]) for key, (name, parse) in parsers.items() if key in parameters}
    kinds = parse_annotation(parameters["annotation"]) if "annotation" in parameters else frozenset()
    return PictureOptions(RenderOptions(**found), kinds)
