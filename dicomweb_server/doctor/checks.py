"""The list of checks, in the order in which a viewer would ask, and running them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from dicomweb_server.doctor import reading, writing
from dicomweb_server.doctor.client import Failed
from dicomweb_server.doctor.target import Skipped, Target

Outcome = Literal["ok", "failed", "skipped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of a check; `sentence` is what was seen, or what is wrong."""

    name: str
    clients: str
    outcome: Outcome
    sentence: str


Check = tuple[str, str, Callable[[Target], str]]
"""Its name, who asks so, and the function, which gives what it saw or raises Failed or Skipped."""

OHIF, PYTHON, BOTH = "OHIF", "dicomweb-client", "OHIF, dicomweb-client"

STORING: tuple[Check, ...] = (
    ("store, as a viewer", OHIF, writing.store_as_ohif),
    ("store, in chunks", PYTHON, writing.store_as_python),
    ("store again", BOTH, writing.store_again),
    ("store to another study", PYTHON, writing.store_to_wrong_study),
)
READING: tuple[Check, ...] = (
    ("study list", OHIF, reading.study_list),
    ("list without hits", BOTH, reading.list_without_hits),
    ("filters of the list", OHIF, reading.filters),
    ("studies by UID", OHIF, reading.studies_by_uid),
    ("pages", PYTHON, reading.paging),
    ("fields, repeated", PYTHON, reading.repeated_fields),
    ("useless bearer token", PYTHON, reading.useless_bearer),
    ("series list", BOTH, reading.series_list),
    ("metadata of a series", BOTH, reading.series_metadata),
    ("metadata, merged Accept", OHIF, reading.merged_accept),
    ("metadata again", OHIF, reading.metadata_again),
    ("frame", BOTH, reading.frame),
    ("frame, range", OHIF, reading.frame_range),
    ("frame that is not there", BOTH, reading.frame_missing),
    ("HEAD", OHIF, reading.head),
    ("bulk data", BOTH, reading.bulkdata),
    ("whole object", BOTH, reading.whole_object),
    ("rendered", BOTH, reading.rendered),
    ("thumbnails", OHIF, reading.thumbnail),
    ("WADO-URI", "OHIF 2", reading.wado_uri),
    ("another origin", OHIF, reading.cross_origin),
)
REMOVING: tuple[Check, ...] = (("delete", PYTHON, writing.delete),)


def run_checks(target: Target) -> Iterator[Result]:
    """Every check, one after the other. What was stored is deleted at the end, whatever happened."""
    try:
        yield from map(lambda check: _result(check, target), STORING if target.samples else ())
        target.choose()
        yield from map(lambda check: _result(check, target), READING)
    except Failed as exc:
        yield Result(name="connection", clients=BOTH, outcome="failed", sentence=str(exc))
    finally:
        removed = [_result(check, target) for check in (REMOVING if target.samples else ())]
    yield from removed


def _result(check: Check, target: Target) -> Result:
    name, clients, function = check
    outcome: Outcome = "ok"
    try:
        sentence = function(target)
    except Failed as exc:
        outcome, sentence = "failed", str(exc)
    except Skipped as exc:
        outcome, sentence = "skipped", str(exc)
    except (AttributeError, KeyError, IndexError, TypeError) as exc:
        outcome, sentence = "failed", f"the answer is no DICOM JSON as the standard has it ({type(exc).__name__})"
    return Result(name=name, clients=clients, outcome=outcome, sentence=sentence)
