"""The words of names, and how they sound."""

from dicomweb_server.dicom.names import sound, words


def test_words_and_sounds() -> None:
    assert words("O'Neil^Mary Ann=山田") == ("o", "neil", "mary", "ann", "山田")
    assert len(words(" ".join(str(number) for number in range(1000)))) == 64
    for one, other in (("smith", "smyth"), ("catherine", "katherine"), ("philip", "filip"), ("meyer", "maier")):
        assert sound(one) == sound(other) != ""
    assert sound("smith") != sound("miller")
    assert sound("山田") == sound("1a") == ""
