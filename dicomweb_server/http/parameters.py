"""The query parameters, as clients and people read about them. What they do is said where they are read."""

from dicomweb_server.codec.options import ICC_PROFILES
from dicomweb_server.http.table import Parameter

_TEXT = {"type": "string"}
_TRUTH = {"type": "boolean", "default": False}
_COUNT = {"type": "integer", "minimum": 0}

ACCEPT = (
    Parameter("accept", "Media types of the answer; means the same as the Accept header (PS3.18 8.3.3.1)", _TEXT),
)

SEARCH = (
    *ACCEPT,
    Parameter(
        "{attribute}",
        "Match by an attribute, named by keyword, by tag or, inside a sequence, by a path of these with dots: value, "
        "wildcard, list of UIDs, range of dates and times (PS3.18 8.3.4.1)",
        _TEXT,
        repeated=True,
    ),
    Parameter(
        "includefield", "More attributes: keywords, tags, or all; repeated or a comma list", _TEXT, repeated=True
    ),
    Parameter("limit", "At most so many results", _COUNT),
    Parameter("offset", "Leave out so many results first", _COUNT),
    Parameter("orderby", "Keywords to sort by, separated by commas; `-` before one sorts downwards (extension)", _TEXT),
    Parameter("fuzzymatching", "Match names by what they sound like", _TRUTH),
    Parameter("emptyvaluematching", 'Match empty values by `""` (PS3.18 8.3.4.5)', _TRUTH),
    Parameter("multiplevaluematching", "Match any of several values, separated by backslashes or commas", _TRUTH),
)

CHANGES = (
    Parameter("after", "The cursor that an answer gave as `next`; none: from the beginning; newest: from now", _TEXT),
    Parameter("limit", "At most so many changes", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}),
    Parameter("wait", "Seconds to wait for a change", {"type": "integer", "minimum": 0, "maximum": 60, "default": 0}),
)
BIN = (
    Parameter("study_uid", "Only of this study", _TEXT),
    Parameter("series_uid", "Only of this series", _TEXT),
    Parameter("instance_uid", "Only this instance", _TEXT),
    Parameter("before", "Only what was removed before this day or time (UTC)", _TEXT),
    Parameter("limit", "At most so many", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}),
    Parameter("cursor", "The `next` of the answer before", _TEXT),
)
AUDIT = (
    *(
        Parameter(name, f"Only records with this {meaning}", _TEXT)
        for name, meaning in (
            ("user", "user"),
            ("study", "Study Instance UID"),
            ("patient", "Patient ID"),
            ("action", "action: login, search, retrieve, store, delete, ..."),
            ("outcome", "outcome: success, denied, failed"),
        )
    ),
    Parameter("since", "From this day or time (UTC) on", _TEXT),
    Parameter("until", "Up to this day or time (UTC)", _TEXT),
    Parameter("limit", "At most so many", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}),
    Parameter("cursor", "Where the answer before ended", _TEXT),
)
EVENTS = (Parameter("after", "As of /changes; the Last-Event-ID header wins; none: from now", _TEXT),)

EDIT = (
    Parameter("reason", "Why, where the payload is a data set alone", _TEXT),
    Parameter("code", "The same as a code", {"type": "string", "enum": ["CORRECT", "COERCE"], "default": "CORRECT"}),
    Parameter("dry_run", "Only say what would be done, where the payload is a data set alone", _TRUTH),
)

LINK_FOLDER = (Parameter("path", "A folder on the server, below one of links.folders", _TEXT),)

ARCHIVE = (*ACCEPT, Parameter("dicomdir", "A DICOMDIR in a zip archive (extension)", _TRUTH))

_ANNOTATION = Parameter("annotation", "Texts to burn in: patient, technique", _TEXT)
_ICC_PROFILE = Parameter("iccprofile", "Colour space of the picture", {"type": "string", "enum": list(ICC_PROFILES)})
_QUALITY = {"type": "integer", "minimum": 1, "maximum": 100}

THUMBNAIL = (*ACCEPT, Parameter("viewport", "vw,vh or vw,vh,sx,sy,sw,sh: size, and part of the image", _TEXT))

RENDERED = (
    *THUMBNAIL,
    Parameter("window", "center,width,function (linear, linear-exact or sigmoid)", _TEXT),
    Parameter("quality", "Quality of the compression", _QUALITY),
    _ANNOTATION,
    _ICC_PROFILE,
)

WADO_URI = (
    Parameter("requestType", "WADO", {"type": "string", "enum": ["WADO"]}, required=True),
    Parameter("objectUID", "SOP Instance UID", _TEXT, required=True),
    Parameter("studyUID", "Study Instance UID", _TEXT),
    Parameter("seriesUID", "Series Instance UID", _TEXT),
    Parameter("contentType", "Media types of the answer, before the Accept header", _TEXT),
    Parameter("transferSyntax", "Transfer Syntax UID of a DICOM file, or * for the one it is stored in", _TEXT),
    Parameter("frameNumber", "The frame to show, from 1", {"type": "integer", "minimum": 1}),
    Parameter("frame", "Frames as they are stored, from 1, as a list (extension)", _TEXT),
    Parameter("rows", "Height of the picture", {"type": "integer", "minimum": 1}),
    Parameter("columns", "Width of the picture", {"type": "integer", "minimum": 1}),
    Parameter("region", "xmin,ymin,xmax,ymax, from 0 to 1", _TEXT),
    Parameter("windowCenter", "Center of the window", {"type": "number"}),
    Parameter("windowWidth", "Width of the window", {"type": "number"}),
    Parameter("imageQuality", "Quality of the compression", _QUALITY),
    Parameter("presentationUID", "SOP Instance UID of a presentation state to apply", _TEXT),
    Parameter("presentationSeriesUID", "Its series", _TEXT),
    _ANNOTATION,
    _ICC_PROFILE,
)

FHIR_SEARCH = (
    Parameter("_count", "At most so many resources on a page", {"type": "integer", "minimum": 0}),
    Parameter("_offset", "So many resources are passed over", {"type": "integer", "minimum": 0}),
    Parameter("_sort", "Search parameters to sort by, each with a minus for descending", {"type": "string"}),
    Parameter("_include", "Also what these refer to: Type:parameter", {"type": "string"}, repeated=True),
    Parameter("_revinclude", "Also what refers to these: Type:parameter", {"type": "string"}, repeated=True),
    Parameter("_summary", "A part of the resources, or how many", {"enum": ["true", "text", "data", "count", "false"]}),
    Parameter("_elements", "Only these elements of the resources", {"type": "string"}),
    Parameter("_total", "Whether the total is wanted", {"enum": ["none", "estimate", "accurate"]}),
)
