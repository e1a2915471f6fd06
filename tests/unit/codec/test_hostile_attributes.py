"""No attribute of an object makes rendering fail with anything but an error of ours."""

from contextlib import suppress
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dicomweb_server.codec.annotation import patient_lines, technique_lines
from dicomweb_server.codec.decode import Decoded
from dicomweb_server.codec.options import RenderOptions
from dicomweb_server.codec.pixels import PixelDescription
from dicomweb_server.codec.presentation import frame_attributes
from dicomweb_server.codec.presentation_state import apply_presentation_state
from dicomweb_server.codec.render import frame_milliseconds, render_frame
from dicomweb_server.codec.thumbnails import small_picture
from dicomweb_server.errors import DicomwebError

TAGS = (
    *("00280004", "00280010", "00280011", "00280030", "00280034", "00280120", "00280121", "00281050", "00281051"),
    *("00281052", "00281053", "00281056", "00281101", "00281102", "00281103", "00281201", "00281202", "00281203"),
    *("00281221", "00281222", "00281223", "00282000", "00283000", "00283010", "00480105", "20500010", "20500020"),
    *("52009229", "52009230", "60000010", "60000011", "60000015", "60000050", "60000051", "60000102", "60003000"),
    *("00181063", "00180040", "00100010", "00080060", "7FE00010"),
)
STATE_TAGS = (
    *("00283110", "00700001", "0070005A", "00700041", "00700042", "00081115", "20500010", "20500020", "00283000"),
)
NESTED_TAGS = (
    *("00283002", "00283006", "00289132", "00289145", "00289110", "00281050", "00281051", "00081140", "00081155"),
    *("00081160", "00700008", "00700009", "00700022", "00700023", "00700010", "00700006", "00700052", "00700053"),
)

plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-70000, 70000),
    st.sampled_from([2**40, -(2**63), 0, 1, 8, 16]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from(["LINEAR", "SIGMOID", "PALETTE COLOR", "MONOCHROME1", "POLYLINE", "CIRCLE", "Y"]),
)


def _element(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.one_of(
        st.just({"vr": "US"}),
        st.lists(values, max_size=4).map(lambda found: {"vr": "US", "Value": found}),
        st.binary(max_size=40).map(lambda data: {"vr": "OW", "InlineBinary": data.hex()}),
        st.just({"vr": "OW", "InlineBinary": "%%%"}),
        st.just({"vr": "OW", "BulkDataURI": "/x"}),
    )


nested = st.dictionaries(st.sampled_from(NESTED_TAGS), _element(plain), max_size=4)
deep = st.dictionaries(st.sampled_from(NESTED_TAGS), _element(st.one_of(plain, nested)), max_size=4)
attributes = st.dictionaries(st.sampled_from(TAGS), _element(st.one_of(plain, deep)), max_size=8)
states = st.dictionaries(st.sampled_from(STATE_TAGS), _element(st.one_of(plain, deep)), max_size=6)

FRAMES = (
    Decoded(
        np.arange(16, dtype="<u2").reshape(4, 4), PixelDescription(4, 4, bits_allocated=16, bits_stored=12, high_bit=11)
    ),
    Decoded(
        np.arange(12, dtype="u1").reshape(3, 4), PixelDescription(3, 4, photometric_interpretation="PALETTE COLOR")
    ),
    Decoded(
        np.arange(12, dtype="u1").reshape(2, 2, 3), PixelDescription(2, 2, 3, photometric_interpretation="YBR_FULL")
    ),
    Decoded(
        np.ones((2, 2), "<f4"), PixelDescription(2, 2, bits_allocated=32, bits_stored=32, high_bit=31, floating=True)
    ),
)


@pytest.mark.filterwarnings("error")
@settings(derandomize=True, max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(attributes, states, st.sampled_from(FRAMES), st.integers(0, 2))
def test_rendering(found: dict[str, Any], state: dict[str, Any], decoded: Decoded, index: int) -> None:
    options = RenderOptions(iccprofile="yes")
    try:
        patient_lines(found)
        technique_lines(found)
        frame_milliseconds(found)
        flat = frame_attributes(found, index, fetch_bulk=lambda uri: b"\1\2\3")
        orjson.dumps(flat)
        render_frame(flat, decoded, options=options)
        small_picture(flat, decoded, full=decoded.description, side=2)
    except DicomwebError:
        pass
    try:
        flat = frame_attributes(found, index)
        shown, changed = apply_presentation_state(flat, options, state, instance_uid="1.2", frame_index=index)
        render_frame(shown, decoded, options=changed)
    except DicomwebError:
        pass


@settings(derandomize=True, max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            ["00280002", "00280004", "00280006", "00280008", "00280010", "00280011", "00280100", "00280101"]
        ),
        _element(plain),
    )
)
def test_descriptions(found: dict[str, Any]) -> None:
    with suppress(DicomwebError):
        PixelDescription.from_attributes(found)
