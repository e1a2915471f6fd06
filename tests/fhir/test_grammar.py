"""Whatever is asked in the grammar of searches, and beside it, the answer is never a failure of the server."""

from urllib.parse import quote, urlencode

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dicomweb_server.fhir.tables import PARAMETERS, SORTS, TYPES
from tests.fhir.conftest import BASE, ROOT, Fhir

MODIFIERS = ("", ":exact", ":contains", ":missing", ":not", ":identifier", ":Patient", ":text", ":of-type")
SEEDS = (
    *("doe", "Müller", "山田", "CT", "J1", "1980-02-03", "ge2024", "2024-03-10T08:30:00+01:00", "true", "false", "*"),
    *("urn:dicom:uid|urn:oid:1.2", "|", "a|b|c", r"\,", r"a\|b", "Patient/1", "Endpoint/1.2.3", f"{ROOT}.1", "%", "?"),
    *("ap9999-12-31", "lt0001-01-01", "0000", "9999-12-31T23:59:59.999999999-14:00", "http://x/y", "\u0000", "'", "--"),
)
values = st.one_of(st.sampled_from(SEEDS), st.text(max_size=20), st.lists(st.sampled_from(SEEDS)).map(",".join))


@st.composite
def searches(draw: st.DrawFn) -> str:
    kind = draw(st.sampled_from(TYPES))
    names = list(PARAMETERS[kind])
    chained = st.sampled_from([name for other in TYPES for name in PARAMETERS[other]])
    pairs = []
    for _ in range(draw(st.integers(0, 4))):
        name = draw(st.sampled_from(names)) + draw(st.sampled_from(MODIFIERS))
        if draw(st.integers(0, 3)) == 0:
            name += "." + draw(chained) + draw(st.sampled_from(MODIFIERS))
        if draw(st.integers(0, 5)) == 0:
            name = f"_has:{draw(st.sampled_from(TYPES))}:{draw(chained)}:{draw(chained)}"
        pairs.append((name, draw(values)))
    control = {
        "_count": st.sampled_from(["0", "1", "3", "-1", "x", "99999999999999999999"]),
        "_offset": st.sampled_from(["0", "2", "x", "9223372036854775808"]),
        "_sort": st.sampled_from([*SORTS[kind], *(f"-{name}" for name in SORTS[kind]), "shoe", ","]),
        "_summary": st.sampled_from(["true", "text", "data", "count", "false", "x"]),
        "_elements": st.sampled_from(["id", "started,series", "nothing", ","]),
        "_total": st.sampled_from(["none", "accurate", "x"]),
        "_include": st.sampled_from([f"{kind}:{draw(chained)}", "*", "x", f"{kind}:*"]),
        "_revinclude": st.sampled_from(["ImagingStudy:patient", "*", "x:y:z", "Endpoint:organization"]),
        "_format": st.sampled_from(["json", "xml", "turtle"]),
    }
    for name in draw(st.lists(st.sampled_from(list(control)), max_size=3)):
        pairs.append((name, draw(control[name])))
    query = urlencode(pairs, quote_via=quote, errors="surrogatepass")
    return f"{kind}?{query}"


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(path=searches())
def test_no_search_fails(shared_fhir: Fhir, path: str) -> None:
    answer = shared_fhir.client.get(f"{BASE}/{path}", status="*")
    assert answer.status_int in (200, 400, 406), answer.text
    if answer.status_int != 200 and "json" in answer.content_type:
        assert answer.json["resourceType"] == "OperationOutcome"
