"""Body parts as SNOMED CT codes. BodyPartExamined (0018,0015) is a word; its code is that of the anatomic region of the
same name in CID 4 of PS3.16, as pydicom has it."""

from functools import cache

from dicomweb_server.fhir.values import SNOMED, Json

# PS3.16 table L-1: defined terms that are not the name of the region without blanks.
_NAMES = {
    "ABDOMENPELVIS": "AbdomenAndPelvis",
    "ANKLE": "AnkleJoint",
    "BILEDUCT": "BileDuct",
    "CSPINE": "CervicalSpine",
    "CTSPINE": "CervicoThoracicSpine",
    "CHEST": "Thorax",
    "CHESTABDOMEN": "ChestAndAbdomen",
    "CHESTABDPELVIS": "ChestAbdomenAndPelvis",
    "ELBOW": "ElbowJoint",
    "EXTREMITY": "Extremity",
    "HEADNECK": "HeadAndNeck",
    "JAW": "JawRegion",
    "LARGEINTESTINE": "LargeIntestine",
    "LEG": "LowerLeg",
    "LSPINE": "LumbarSpine",
    "LSSPINE": "LumboSacralSpine",
    "NECKCHEST": "NeckAndChest",
    "NECKCHESTABDOMEN": "NeckChestAndAbdomen",
    "NECKCHESTABDPELV": "NeckChestAbdomenAndPelvis",
    "ARM": "UpperArm",
    "ORBIT": "OrbitalStructure",
    "SIJOINT": "SacroiliacJoint",
    "SMALLINTESTINE": "SmallIntestine",
    "SSPINE": "Sacrum",
    "TLSPINE": "ThoracoLumbarSpine",
    "TMJ": "TemporomandibularJoint",
    "TSPINE": "ThoracicSpine",
    "WHOLEBODY": "EntireBody",
    "WRIST": "WristJoint",
}

_FURTHER = {"heart": ("80891009", "Heart")}

LATERALITY = {
    "R": {"system": SNOMED, "code": "24028007", "display": "Right"},
    "L": {"system": SNOMED, "code": "7771000", "display": "Left"},
    "B": {"system": SNOMED, "code": "51440002", "display": "Right and left"},
}
"""Laterality (0020,0060)."""


def body_site(word: str) -> Json:
    """The `Coding` of a body part: with a SNOMED CT code where the word is a known one."""
    found = _regions().get(_NAMES.get(_plain(word), word).replace(" ", "").lower())
    return {"system": SNOMED, "code": found[0], "display": found[1]} if found else {"display": word}


def words_of(code: str) -> tuple[str, ...]:
    """The values of BodyPartExamined that a code, or the word itself, stands for."""
    regions = _regions()
    names = {name for name, (known, _) in regions.items() if known == code}
    terms = [term for term, name in _NAMES.items() if name.lower() in names]
    return tuple(dict.fromkeys((*terms, *(name.upper() for name in sorted(names)))))


def _plain(word: str) -> str:
    return "".join(character for character in word.upper() if character.isalnum())


@cache
def _regions() -> dict[str, tuple[str, str]]:
    """Names without blanks, in lower case, to code and meaning. Loaded when first wanted: it takes pydicom a third of a
    second."""
    from pydicom.sr.codedict import codes  # noqa: PLC0415

    region = codes.cid4
    found = dict(_FURTHER)
    for name in region.dir():
        code = getattr(region, name)
        if code.scheme_designator == "SCT":
            found[name.lower()] = (str(code.value), str(code.meaning))
    return found
