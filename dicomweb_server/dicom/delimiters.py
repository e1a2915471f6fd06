"""What stands around the items of sequences and the fragments of pixel data, little endian (PS3.5 7.5 and A.4)."""

from typing import Final

ITEM_TAG: Final = b"\xfe\xff\x00\xe0"
OPEN_ITEM: Final = ITEM_TAG + b"\xff\xff\xff\xff"
"""The header of an item of undefined length, which ends in ITEM_END."""
ITEM_END: Final = b"\xfe\xff\x0d\xe0\0\0\0\0"
SEQUENCE_END: Final = b"\xfe\xff\xdd\xe0\0\0\0\0"
