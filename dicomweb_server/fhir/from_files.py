"""Studies from headers, without an index: what `fhir export` shows of files. It shows what an archive would that stored
them in that order."""

from collections.abc import Iterable, Sequence

from dicomweb_server.dicom.attributes import Attributes, merge, select
from dicomweb_server.dicom.levels import Level
from dicomweb_server.fhir.mapping import Study
from dicomweb_server.fhir.values import text, texts
from dicomweb_server.storage.records import Hit

STUDY_UID, SERIES_UID, INSTANCE_UID, SOP_CLASS, MODALITY = "0020000D", "0020000E", "00080018", "00080016", "00080060"


def studies_of(headers: Iterable[Attributes]) -> list[Study]:
    """The studies of these headers, in the order in which they first come; an instance counts once."""
    found: dict[str, dict[str, Attributes]] = {}
    for header in headers:
        found.setdefault(text(header, STUDY_UID), {})[text(header, INSTANCE_UID)] = header
    return [_study(uid, list(below.values())) for uid, below in found.items()]


def _study(uid: str, headers: Sequence[Attributes]) -> Study:
    series: dict[str, list[Attributes]] = {}
    for header in headers:
        series.setdefault(text(header, SERIES_UID), []).append(header)
    return Study(
        study=_hit(Level.STUDY, headers, study_uid=uid, number_of_series=len(series)),
        series=[_hit(Level.SERIES, some, study_uid=uid, series_uid=one) for one, some in series.items()],
        instances=[
            _hit(
                Level.INSTANCE,
                [header],
                study_uid=uid,
                series_uid=text(header, SERIES_UID),
                instance_uid=text(header, INSTANCE_UID),
            )
            for header in headers
        ],
        headers={text(header, INSTANCE_UID): header for header in headers},
    )


def patient_of(study: Study) -> Hit:
    """The patient of a study, as far as that study knows it."""
    return Hit(level=Level.PATIENT, attributes=select(study.study.attributes, Level.PATIENT), number_of_studies=1)


def _hit(
    level: Level,
    headers: Sequence[Attributes],
    *,
    study_uid: str,
    series_uid: str | None = None,
    instance_uid: str | None = None,
    number_of_series: int = 0,
) -> Hit:
    return Hit(
        level=level,
        attributes=merge(select(header, level) for header in headers),
        study_uid=study_uid,
        series_uid=series_uid,
        instance_uid=instance_uid,
        number_of_series=number_of_series,
        number_of_instances=len(headers),
        modalities=tuple(sorted({value for header in headers for value in texts(header, MODALITY)})),
        sop_classes=tuple(sorted({text(header, SOP_CLASS) for header in headers})),
    )
