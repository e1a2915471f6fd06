"""What became of each part of a request to store, in the words of the standard."""

from dataclasses import dataclass, field

from dicomweb_server.storage.records import Stored

# Failure and warning reasons, PS3.18 Table I.2-2 and PS3.7 Annex C.
PROCESSING_FAILURE = 0x0110
DUPLICATE_INSTANCE = 0x0111
SOP_CLASS_NOT_SUPPORTED = 0x0122
OUT_OF_RESOURCES = 0xA700
DATA_SET_MISMATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000
WARNING_COERCED = 0xB000
WARNING_MISMATCH = 0xB007


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A stored instance. `warning` is a warning reason or None, `notes` say why in words; `name` is what the caller
    called it."""

    study_uid: str
    series_uid: str
    instance_uid: str
    sop_class_uid: str
    outcome: Stored
    warning: int | None = None
    notes: tuple[str, ...] = ()
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A part that was not stored. The UIDs are None when the part had no usable ones; `no_instance`: it is no damaged
    instance, but something else."""

    reason: int
    message: str
    sop_class_uid: str | None = None
    instance_uid: str | None = None
    duplicate: bool = False
    no_instance: bool = False
    name: str = ""


@dataclass(slots=True)
class Report:
    """What became of each part, in the order in which the parts were decided."""

    accepted: list[Accepted] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)

    @property
    def notes(self) -> tuple[str, ...]:
        """Every different note of the accepted ones."""
        return tuple(dict.fromkeys(note for item in self.accepted for note in item.notes))
