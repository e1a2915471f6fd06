"""The dictionary says what pydicom says, and does not import it."""

import subprocess
import sys

import pytest
from pydicom import datadict
from pydicom._dicom_dict import DicomDictionary
from pydicom._private_dict import private_dictionaries
from pydicom.tag import Tag

from dicomweb_server.dicom import dictionary

REPEATING = [group << 16 | element for group in (0x5000, 0x5002, 0x6000, 0x601E, 0x60FF) for element in range(0x3100)]
UNKNOWN = [0x00080004, 0x00091001, 0x60010010, 0xFFFFFFFF]


def test_public_attributes() -> None:
    for number in [*DicomDictionary, *REPEATING, *UNKNOWN]:
        wanted: tuple[str | None, str]
        try:
            wanted = datadict.dictionary_VR(number), datadict.dictionary_keyword(number)
        except KeyError:
            wanted = None, ""
        assert (dictionary.vr(number), dictionary.keyword(number)) == wanted, Tag(number)
    assert dictionary.public_keyword(0x00100010) == "PatientName"
    assert dictionary.public_keyword(0x60000010) == ""
    assert {keyword: tag for keyword, tag in datadict.keyword_dict.items() if keyword} == dictionary.TAGS


def test_private_attributes() -> None:
    found = 0
    for creator, entries in private_dictionaries.items():
        for pattern in entries:
            number = int(pattern.replace("xxxx", "1012").replace("xx", "10"), 16)
            try:
                wanted = datadict.private_dictionary_VR(number, creator)
            except KeyError:
                wanted = None
            assert dictionary.private_vr(number, creator) == wanted, (creator, pattern)
            found += wanted is not None
    assert found > 1000
    assert dictionary.private_vr(0x00091001, "nobody") is None


@pytest.mark.parametrize(
    "words",
    [
        pytest.param("--help", id="help"),
        pytest.param("import --help", id="import"),
    ],
)
def test_commands_start_without_what_only_pictures_need(words: str) -> None:
    script = (
        "import sys\n"
        "from dicomweb_server.__main__ import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: print(sorted({'pydicom', 'numpy', 'gdcm', 'falcon', 'requests'}.intersection(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script, *words.split()], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\n[]\n"), done.stdout
