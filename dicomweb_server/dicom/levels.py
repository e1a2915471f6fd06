"""The levels of the DICOM information model."""

from enum import StrEnum


class Level(StrEnum):
    """Top down; `Level.STUDY.depth` is 1."""

    PATIENT = "patient"
    STUDY = "study"
    SERIES = "series"
    INSTANCE = "instance"

    @property
    def depth(self) -> int:
        """0 for the patient, 3 for the instance."""
        return _DEPTH[self]


_DEPTH = {level: depth for depth, level in enumerate(Level)}
