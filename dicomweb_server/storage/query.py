"""A search as a value: what QIDO-RS, FHIR and the commands hand to `Storage.search`.

All values in a query are normalised already (`dicom.query_values.parse_term`), the same way as the values they are
compared with (`dicom.matching.match_values`): a backend compares strings with strings and numbers with numbers and
folds nothing.
"""

from dataclasses import dataclass, field

from dicomweb_server.dicom.levels import Level
from dicomweb_server.dicom.matching import Condition, Term
from dicomweb_server.storage.records import Scope


@dataclass(frozen=True, slots=True)
class Order:
    """A sort key of one tag. Entities without a value come last in both directions."""

    tag: str
    vr: str
    descending: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """All terms must match what the entity shows (see `base.py`), as `dicom.matching.matches` says; an attribute of a
    deeper level than the query has no value. Besides what files hold, terms know the UIDs of the entity and of what it
    belongs to, ModalitiesInStudy, SOPClassesInStudy and the numbers of studies, series and instances of the entity and
    of what it belongs to, and AvailableTransferSyntaxUID below patients. They also know, under the tags
    `attributes.PATIENT_DIGEST` and, above instances, `attributes.LAST_CHANGED`, the digest of the patient's key and
    when the entity last changed.

    The order is total: after the keys given it ends in the UID of the level (of a patient: its key), so that pages
    neither repeat nor skip while nothing changes.

    conditions: hold as well (`dicom.matching.holds`). Terms lead to the entities; what can be one should be one.
    times: the hits tell `changed_at`.
    scope: only entities inside this study or series.
    limit: at most so many hits; the answer says whether more follow.
    """

    level: Level
    scope: Scope = field(default_factory=Scope)
    terms: tuple[Term, ...] = ()
    conditions: tuple[Condition, ...] = ()
    order: tuple[Order, ...] = ()
    limit: int = 1000
    offset: int = 0
    times: bool = False
