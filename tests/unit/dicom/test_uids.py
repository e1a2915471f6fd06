"""What is a UID, and what transfer syntaxes say."""

import pytest

from dicomweb_server.dicom.uids import is_encapsulated, is_uid, is_video, new_uid


@pytest.mark.parametrize("text", ["1", "1.2.840.10008.1.2", "0.0", "1.02.3", "1" * 64])
def test_uids(text: str) -> None:
    assert is_uid(text)


@pytest.mark.parametrize(
    "text",
    ["", "1.", ".1", "1..2", "a", "1.2.a", "1" * 65, "1.2\n", " 1.2", "1.2 ", "1.2\0", "1,2", "../1", "１.２", "1.٢"],
)
def test_other_text_is_no_uid(text: str) -> None:
    assert not is_uid(text)


def test_new_uids_are_uids_and_differ() -> None:
    one, other = new_uid(), new_uid()
    assert is_uid(one)
    assert one != other


def test_transfer_syntaxes() -> None:
    native = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2")
    assert not any(is_encapsulated(uid) for uid in native)
    assert is_encapsulated("1.2.840.10008.1.2.4.50")
    assert is_encapsulated("1.2.840.10008.1.2.8.1")
    assert is_video("1.2.840.10008.1.2.4.100")
    assert is_video("1.2.840.10008.1.2.4.102.1")
    assert not is_video("1.2.840.10008.1.2.4.10")
    assert not is_video("1.2.840.10008.1.2.4.110")
