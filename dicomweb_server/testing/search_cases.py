"""The search table: data sets, and queries of which every storage must find what `dicom.matching.matches` finds."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from dicomweb_server.dicom.attributes import (
    LAST_CHANGED,
    PATIENT_DIGEST,
    Attributes,
    merge,
    patient_digest,
    patient_key,
    resolve,
    select,
)
from dicomweb_server.dicom.levels import Level
from dicomweb_server.dicom.matching import (
    AllOf,
    AnyOf,
    Condition,
    Equal,
    Has,
    Not,
    Range,
    Term,
    holds,
    matches,
    sort_key,
)
from dicomweb_server.dicom.query_values import parse_combined, parse_term
from dicomweb_server.storage.query import Order, Query
from dicomweb_server.storage.records import Hit, InstanceRecord, Scope
from dicomweb_server.testing.datasets import CT_IMAGE, JPEG, MR_IMAGE, ROOT, attribute, record

STUDY, SERIES = f"{ROOT}.100", f"{ROOT}.101"


def records() -> list[InstanceRecord]:
    """The data, always in the same order with the same UIDs."""
    request = {
        "vr": "SQ",
        "Value": [
            {"00400009": attribute("ScheduledProcedureStepID", "SPS1")},
            {"00400009": attribute("ScheduledProcedureStepID", "SPS2"), "00400007": attribute("StudyDescription", "x")},
        ],
    }
    private = {"00090010": attribute("00090010", "HOUSE", vr="LO"), "00091001": attribute("00091001", "Blue", vr="LO")}
    number = {"00090010": attribute("00090010", "HOUSE", vr="LO"), "00091002": attribute("00091002", 42, vr="DS")}
    binary = {"00091003": {"vr": "UN", "InlineBinary": "AAAA"}, "00091004": {"vr": "SQ"}}
    rows: list[dict[str, Any]] = [
        {"PatientID": "A1", "PatientName": "Müller^Jürgen", "StudyDate": "20230105", "StudyTime": "101500.25"},
        {"PatientID": "A2", "PatientName": "Muller^Hans^^Dr", "StudyDate": "20230105", "StudyTime": "1015"},
        {"PatientID": "a1", "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう", "StudyDate": "1997.04.23"},
        {"PatientID": "B[1]", "PatientName": "ﾔﾏﾀﾞ^ﾀﾛｳ", "StudyDate": "20230106", "StudyTime": "00"},
        {"PatientID": "B?1", "PatientName": "Smith^John", "StudyDate": "20231231", "StudyTime": "235959.999999"},
        {"PatientID": "B*1", "PatientName": "Smyth^Jon", "StudyDate": "20240101", "StudyTime": "12:30:15"},
        {"PatientID": None, "PatientName": None, "StudyDate": None, "StudyTime": "120000"},
        {"PatientID": "Z9", "PatientName": "Hong^Gildong=洪^吉洞=홍^길동", "StudyDate": "not a date"},
        {"PatientID": "Z9", "PatientName": ["Doe^Jane", "Roe^Richard"], "StudyDate": ["20230107", "20230207"]},
        {"PatientID": "Ω 'quoted\" %_", "PatientName": "O'Neil^Mary Ann", "StudyDate": "20230108"},
        {"PatientID": "C" * 64, "PatientName": "Øster^Åse", "StudyDate": "20230109", "PatientComments": "y" * 2000},
        {"PatientID": "CC", "PatientName": "Katherine^K^^", "StudyDate": "20230109", "StudyID": ["1", "2"]},
    ]
    made = []
    for place, row in enumerate(rows):
        study = f"{ROOT}.100" if place == 0 else f"{ROOT}.100.{place}"
        for number_of_series in range(1 + place % 3):
            series = f"{study.replace('.100', '.101', 1)}{f'.{number_of_series}' if number_of_series else ''}"
            for instance in range(1 + (place + number_of_series) % 2):
                made.append(
                    record(
                        study,
                        series,
                        instance_uid=f"{ROOT}.102.{place}.{number_of_series}.{instance}",
                        sop_class_uid=MR_IMAGE if number_of_series == 1 else CT_IMAGE,
                        transfer_syntax_uid=JPEG if place == 3 else "1.2.840.10008.1.2.1",
                        more=(private, number, binary, {})[place % 4],
                        **{
                            "AccessionNumber": f"ACC{place:03}" if place % 4 else None,
                            "Modality": ("CT", "MR", "SR")[number_of_series],
                            "SeriesNumber": 10 - number_of_series if place != 4 else None,
                            "SeriesDescription": f"Axial {place}*",
                            "SeriesDate": "20230105",
                            "BodyPartExamined": "HEAD" if place % 2 else "CHEST",
                            "InstanceNumber": instance + 1 if place != 5 else None,
                            "ImageType": ["ORIGINAL", "PRIMARY"] if instance else ["DERIVED", "SECONDARY", "AXIAL"],
                            "Rows": 512 if instance else 256,
                            "SliceThickness": 1.5,
                            "ContentDate": "20230110",
                            "ContentTime": f"10{place:02}00",
                            "AcquisitionDateTime": "20230105101500.5+0200" if instance else "20230105101500",
                            "FrameIncrementPointer": "00181063",
                            "ReferringPhysicianName": "House^Gregory" if place % 2 else None,
                            "InstitutionName": "Krankenhaus Nord" if place % 2 else "Süd",
                            "ImageComments": f"first line {place}\r\nsecond line",
                            **({"RequestAttributesSequence": request} if place in (1, 5) else {}),
                            **row,
                        },
                    )
                )
    return made


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())


EXACT = _lines("""
    PatientID=A1
    PatientID=a1
    PatientID=B[1]
    PatientID=nobody
    AccessionNumber=ACC001
    StudyDate=20230105
    Modality=MR
    StudyDate=19970423
    StudyDate=20230207
    StudyTime=101500.25
    StudyTime=1015
    StudyTime=12:30:15
    SeriesNumber=9
    SeriesNumber=9.0
    BodyPartExamined=HEAD
    Rows=512
    SliceThickness=1.5
    ImageType=AXIAL
    InstanceNumber=2
    StudyID=2
    InstitutionName=Süd
    ReferringPhysicianName=house^gregory
    FrameIncrementPointer=00181063
    PatientID=Ω 'quoted" %_
    PatientID=CCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCC
""")

NAMES = _lines("""
    PatientName=müller^jürgen
    PatientName=MULLER^JURGEN
    PatientName=muller^hans^^dr
    PatientName=山田^太郎
    PatientName=yamada^tarou
    PatientName=Yamada^Tarou=山田^太郎=やまだ^たろう
    PatientName=ヤマダ^タロウ
    PatientName=doe^jane
    PatientName=roe^richard
    PatientName=smith
    PatientName=홍^길동
    PatientName=o'neil^mary
    PatientName=Smith^John^^
    PatientName=O'Neil^Mary Ann
""")

WILDCARDS = _lines("""
    PatientName=m*ller*
    PatientName=*山*
    PatientName=sm?th^*
    PatientName=*^jo*
    PatientName=ﾔﾏﾀ?^*
    PatientName=*길?
    PatientName=Katherine^K^*
    PatientName=*^k^
    PatientName=*^*
    PatientID=B[1*
    PatientID=B*
    PatientID=?1
    PatientID=a*
    PatientID=*[*
    PatientID=*%*
    PatientID=C*C
    SeriesDescription=Axial*
    SeriesDescription=*1*
    BodyPartExamined=*E*T
    Modality=?R
    InstitutionName=*enh*
    ImageType=AX*
    AccessionNumber=ACC*0?
    ImageComments=*second*
    AccessionNumber=*
    PatientComments=y*y
    ReferringPhysicianName=*house*
""")

RANGES = _lines("""
    StudyDate=20230105-20230106
    StudyDate=-20230105
    StudyDate=20231231-
    StudyDate=2023
    StudyDate=202301-202302
    StudyTime=10-11
    StudyTime=101500-101500.25
    StudyTime=-000000
    StudyTime=235959.9-
    StudyTime=10
    ContentTime=1003-1005
    AcquisitionDateTime=20230105081500-
    AcquisitionDateTime=-20230105081500.5
    AcquisitionDateTime=20230105101500.5+0200
    AcquisitionDateTime=2023-2024
    ContentDate=20230110
    PerformedProcedureStepStartDate=20230101-
""")

LISTS = (
    f"StudyInstanceUID={ROOT}.100,{ROOT}.100.3",
    f"SeriesInstanceUID={ROOT}.101\\{ROOT}.101.2.1",
    f"SOPInstanceUID={ROOT}.102.0.0.0,{ROOT}.102.1.1.0",
    "StudyInstanceUID=" + ",".join(f"{ROOT}.100.{number}" for number in range(2000)),
    "Modality=CT,SR",
    "SeriesNumber=8\\9",
    "ModalitiesInStudy=MR",
    "ModalitiesInStudy=SR\\XX",
    f"SOPClassesInStudy={MR_IMAGE}",
    f"SOPClassUID={MR_IMAGE}",
    f"PatientComments={'y' * 2000}",
)

PATHS = _lines("""
    RequestAttributesSequence.ScheduledProcedureStepID=SPS2
    00400275.00400009=SPS*
    RequestAttributesSequence.ScheduledProcedureStepID=none
    00091001=Blue
    00091001=B*
    00091001=blue
    00091002=42
    00091003=x
    NumberOfStudyRelatedSeries=2
    NumberOfStudyRelatedInstances=3
    NumberOfSeriesRelatedInstances=2
""")

FUZZY = _lines("""
    PatientName=smith
    PatientName=jon
    PatientName=muller
    PatientName=cathrine
    PatientName=山田
    PatientName=nobody
    PatientName=john smith
    PatientName=ann oneil
    PatientName=sm*
""")

EMPTY = _lines(r"""
    PatientID=""
    PatientName=""
    StudyDate=""
    AccessionNumber=""
    SeriesNumber=""
    InstanceNumber=""
    ReferringPhysicianName=""
    StudyID=""
    RequestAttributesSequence=""
    00091001=""
    00091003=""
    00091004=""
    PatientComments=""
    PatientID=""\A1
    AccessionNumber=ACC0*\""
    PatientName=""\smith*
""")

COMBINED = (
    ("20230105-20230106", "1015-1200"),
    ("20230105", "101500.25"),
    ("-20230106", "-000000"),
    ("20231231-", "2359-"),
)


def queries() -> list[tuple[str, tuple[Term, ...]]]:
    """Every query of the table with its name."""
    table: list[tuple[str, tuple[Term, ...]]] = [("everything", ())]
    for texts, options in (
        ((*EXACT, *NAMES, *WILDCARDS, *RANGES, *LISTS, *PATHS), {}),
        (FUZZY, {"fuzzy": True}),
        (EMPTY, {"empty": True, "multiple": True}),
    ):
        table += [(f"{text[:60]} {' '.join(options)}", terms(text, **options)) for text in texts]
    for date, time in COMBINED:
        term = parse_combined(("00080020+00080030",), date, time)
        table.append((f"combined {date} {time}", (term,) if term else ()))
    table.append(("two columns", terms("PatientName=*m*") + terms("StudyDate=2023-")))
    table.append(("equal and contains", terms("PatientID=A1") + terms("PatientName=*jü*")))
    table.append(("fuzzy and equal", terms("PatientName=smith", fuzzy=True) + terms("Modality=CT")))
    table.append(("column and function", terms("PatientID=B*") + terms("InstitutionName=*nord*") + terms("Rows=256")))
    return table


def terms(text: str, **options: bool) -> tuple[Term, ...]:
    """The term of "name=value"; none for universal matching."""
    name, _, value = text.partition("=")
    term = parse_term(resolve(name), value, **options)
    return (term,) if term else ()


def one_term(text: str) -> Term:
    """The term of "name=value", which demands something."""
    (term,) = terms(text)
    return term


def digest_term(*keys: str) -> Term:
    """Of patients with these keys."""
    return Term((PATIENT_DIGEST,), "UN", tuple(Equal(patient_digest(key)) for key in keys))


def conditions() -> list[tuple[str, tuple[Condition, ...]]]:
    """Conditions that are made of several terms, with their names."""
    a1, smith, chest = one_term("PatientID=A1"), one_term("PatientName=sm*"), one_term("BodyPartExamined=CHEST")
    mr, accession, date = one_term("Modality=MR"), one_term("AccessionNumber=ACC001"), one_term("StudyDate=2023-2023")
    nested, comments = one_term("RequestAttributesSequence.ScheduledProcedureStepID=SPS2"), one_term("Rows=512")
    fuzzy = parse_term(resolve("PatientName"), "katherin", fuzzy=True)
    empty = parse_term(resolve("AccessionNumber"), '""', empty=True)
    if fuzzy is None or empty is None:
        raise ValueError("these terms demand something")
    uids = one_term("StudyInstanceUID=" + ",".join(f"{ROOT}.100.{number}" for number in (1, 2, 7)))
    return [
        ("never", (AnyOf(),)),
        ("always", (AllOf(),)),
        ("not always", (Not(AllOf()),)),
        ("any of two", (AnyOf((a1, smith)),)),
        ("any of two attributes", (AnyOf((accession, one_term("StudyID=2"), uids)),)),
        ("all of two", (AllOf((smith, date)),)),
        ("not equal", (Not(a1),)),
        ("not with missing values", (Not(accession),)),
        ("not empty", (Not(empty),)),
        ("not a wildcard", (Not(one_term("PatientName=*m*")),)),
        ("not a range", (Not(date),)),
        ("neither", (Not(AnyOf((a1, smith, fuzzy))),)),
        ("not in a sequence", (Not(nested),)),
        ("empty or equal", (AnyOf((empty, accession)), Not(uids))),
        ("within", (AnyOf((AllOf((date, Not(smith))), AllOf((fuzzy, AnyOf((a1, smith, uids)))))),)),
        ("modality of the study", (Not(one_term("ModalitiesInStudy=MR")),)),
        ("has series", (Has(Level.SERIES, (chest,)),)),
        ("has a series of two conditions", (Has(Level.SERIES, (mr, Not(chest))),)),
        ("has instance", (Has(Level.INSTANCE, (comments, AnyOf((chest, mr)))),)),
        ("has none", (Not(Has(Level.SERIES, (mr,))),)),
        ("has one or is", (AnyOf((Has(Level.SERIES, (mr,)), a1)),)),
        ("has nothing", (Has(Level.INSTANCE, (one_term("SOPInstanceUID=1.2.3"),)),)),
        ("of patients", (AnyOf((digest_term("id\\\\A1", "id\\\\Z9"), smith)),)),
        ("not of patients", (Not(digest_term("id\\\\A1")),)),
        ("not of the future", (Not(Term((LAST_CHANGED,), "UN", (Range("29990101" + "0" * 12, None),))),)),
    ]


ORDERS = (
    (),
    (Order("00080020", "DA", True), Order("00080030", "TM", True)),
    (Order("00080020", "DA"),),
    (Order("00100010", "PN"),),
    (Order("00100020", "LO", True),),
    (Order("00200011", "IS"),),
    (Order("00200013", "IS", True),),
    (Order("00200013", "IS"),),
    (Order("00080080", "LO"), Order("00080050", "SH", True)),
    (Order("00280010", "US"),),
    (Order("00080033", "TM", True),),
    (Order("0020000D", "UI", True),),
    (Order("00080016", "UI"), Order("0020000E", "UI", True)),
)

SCOPES = (Scope(), Scope(study_uid=f"{ROOT}.100.5"), Scope(study_uid=f"{ROOT}.100.5", series_uid=f"{ROOT}.101.5.1"))


class Oracle:
    """What a storage holds and finds, from the records in the order in which they were stored."""

    def __init__(self, stored: Iterable[InstanceRecord]) -> None:
        self.records = list(stored)

    def entities(self, level: Level, scope: Scope | None = None) -> dict[tuple[str, ...], dict[str, Any]]:
        """Every study, series or instance: UIDs from the top to what it shows, with what is computed."""
        groups: dict[tuple[str, ...], list[InstanceRecord]] = {}
        for one in self.records:
            key = (one.study_uid, one.series_uid, one.instance_uid)[: level.depth]
            if scope is None or _inside(one, scope):
                groups.setdefault(key, []).append(one)
        return {key: self._shown(level, members) for key, members in groups.items()}

    def find(self, query: Query) -> list[tuple[str, ...]]:
        """The keys of all hits, in order, before limit and offset."""
        found = [
            (key, shown)
            for key, shown in self.entities(query.level, query.scope).items()
            if all(matches(term, shown) for term in query.terms) and self._hold(query.conditions, key, shown)
        ]
        found.sort(key=lambda entity: (entity[0][-1], entity[0]))
        for order in reversed(query.order):
            found = _sorted(found, order)
        return [key for key, _ in found]

    def _hold(self, conditions: Sequence[Condition], key: tuple[str, ...], shown: dict[str, Any]) -> bool:
        def has(wanted: Has) -> bool:
            return wanted.level.depth > len(key) and any(
                self._hold(wanted.parts, below, of_it)
                for below, of_it in self.entities(wanted.level).items()
                if below[: len(key)] == key
            )

        return all(holds(condition, shown, has) for condition in conditions)

    def _shown(self, level: Level, members: Sequence[InstanceRecord]) -> dict[str, Any]:
        shown = dict(merge(select(one.attributes, level) for one in members))
        study = [one for one in self.records if one.study_uid == members[0].study_uid]
        series = [one for one in study if one.series_uid == members[0].series_uid]
        shown |= {
            "0020000D": attribute("StudyInstanceUID", members[0].study_uid),
            "00080061": _set("ModalitiesInStudy", study, lambda one: _modality(one.attributes)),
            "00080062": _set("SOPClassesInStudy", study, lambda one: one.sop_class_uid),
            PATIENT_DIGEST: {"vr": "UN", "Value": [patient_digest(self._patient(study))]},
            "00201206": attribute("NumberOfStudyRelatedSeries", len({one.series_uid for one in study})),
            "00201208": attribute("NumberOfStudyRelatedInstances", len(study)),
        }
        if level.depth >= Level.SERIES.depth:
            shown["00201209"] = attribute("NumberOfSeriesRelatedInstances", len(series))
        return shown

    def _patient(self, study: Sequence[InstanceRecord]) -> str:
        return patient_key(merge(select(one.attributes, Level.STUDY) for one in study), study[0].study_uid)


def key_of(hit: Hit) -> tuple[str, ...]:
    """The UIDs of a hit, as the oracle names it."""
    return tuple(uid for uid in (hit.study_uid, hit.series_uid, hit.instance_uid) if uid is not None)


def _inside(one: InstanceRecord, scope: Scope) -> bool:
    return scope.study_uid in (None, one.study_uid) and scope.series_uid in (None, one.series_uid)


def _sorted(
    found: list[tuple[tuple[str, ...], dict[str, Any]]], order: Order
) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    keyed = [(sort_key(shown, order.tag), (key, shown)) for key, shown in found]
    present = [pair for pair in keyed if pair[0] is not None]
    present.sort(key=lambda pair: pair[0], reverse=order.descending)  # type: ignore[arg-type,return-value]
    return [entity for _, entity in present] + [entity for value, entity in keyed if value is None]


def _set(keyword: str, members: Iterable[InstanceRecord], value: Callable[[InstanceRecord], str]) -> dict[str, Any]:
    return attribute(keyword, *sorted({value(one) for one in members} - {""}))


def _modality(attributes: Attributes) -> str:
    return str(next(iter(attributes.get("00080060", {}).get("Value", [])), ""))
