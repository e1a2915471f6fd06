"""What the checks ask about: one study of the server with an image in it."""

from dataclasses import dataclass, field
from typing import Any

from dicomweb_server.dicom.uids import is_video
from dicomweb_server.doctor.client import Client, Failed
from dicomweb_server.doctor.samples import Sample

DICOM_JSON = "application/dicom+json"
STUDIES_LOOKED_AT = 25


class Skipped(Exception):
    """A check does not apply; the text says why."""


@dataclass(slots=True, kw_only=True)
class Target:
    """The server, the study asked about, and what checks want to know of it.

    origin: an origin whose pages shall be able to use the server, empty when that is not asked.
    wado: the URL of WADO-URI. samples: studies that this run may store; `stored` are those that arrived.
    """

    client: Client
    wado: str
    origin: str = ""
    samples: tuple[Sample, ...] = ()
    stored: list[Sample] = field(default_factory=list)
    study: dict[str, Any] = field(default_factory=dict)
    series: dict[str, Any] = field(default_factory=dict)
    image: dict[str, Any] = field(default_factory=dict)

    @property
    def study_path(self) -> str:
        """The study below the root. Raises Skipped when the server holds none."""
        if not self.study:
            raise Skipped("there is no study to ask about; run again with --store")
        return f"/studies/{value(self.study, '0020000D')}"

    @property
    def series_path(self) -> str:
        """The series with the image."""
        if not self.series:
            raise Skipped("no series with images was found; run again with --store")
        return f"{self.study_path}/series/{value(self.series, '0020000E')}"

    @property
    def instance_path(self) -> str:
        """The image."""
        if not self.image:
            raise Skipped("no image was found; run again with --store")
        return f"{self.series_path}/instances/{value(self.image, '00080018')}"

    def choose(self) -> None:
        """Find a study with an image: one that was stored just now, else the first of the list that has one."""
        wanted = {sample.study_uid for sample in self.stored}
        query = "&".join(f"StudyInstanceUID={uid}" for uid in sorted(wanted)[:1]) or f"limit={STUDIES_LOOKED_AT}"
        for study in self._list(f"/studies?{query}"):
            self.study = self.study or study
            for series in self._list(f"/studies/{value(study, '0020000D')}/series"):
                path = f"/studies/{value(study, '0020000D')}/series/{value(series, '0020000E')}"
                for image in self._list(f"{path}/instances?limit=1&includefield=00280010"):
                    # A video has no frames that can be asked for one by one.
                    if value(image, "00280010") and not is_video(str(value(image, "00083002"))):
                        self.study, self.series, self.image = study, series, image
                        return

    def _list(self, path: str) -> list[dict[str, Any]]:
        answer = self.client.get(path, DICOM_JSON)
        if answer.status == 204 or answer.status >= 400:
            return []
        try:
            found = answer.json()
        except Failed:  # the check of the list says so
            return []
        return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def value(item: dict[str, Any], tag: str) -> Any:
    """The first value of an attribute in DICOM JSON, empty when there is none."""
    values = (item.get(tag) or {}).get("Value") or [""]
    first = values[0]
    return first.get("Alphabetic", "") if isinstance(first, dict) else first


def studies_of(client: Client, path: str, accept: str = DICOM_JSON) -> list[dict[str, Any]]:
    """A search as OHIF makes it. Raises Failed for what its client refuses."""
    answer = client.get(path, accept)
    if answer.status == 204:
        return []
    if answer.status != 200:
        raise Failed(f"a search was answered {answer.status}; clients take 200 and 204 only")
    if answer.media not in (DICOM_JSON, "application/json"):
        raise Failed(f"DICOM JSON was asked for, {answer.media or 'a body without a type'} came")
    found = answer.json()
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise Failed("the body is not a list of objects")
    return found
