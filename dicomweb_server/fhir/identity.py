"""The ids of patients in URLs. They tell nothing: the digest of the patient's key, enciphered with a key that the
archive keeps. Whoever has the archive can go back from an id to the digest, by which every storage finds the patient;
nobody else can tell from an id whose it is, or make the one of a Patient ID."""

import base64
import binascii
import hashlib
import secrets
import threading
from functools import lru_cache

from dicomweb_server.dicom.attributes import patient_digest
from dicomweb_server.errors import NotFound, VersionConflict
from dicomweb_server.storage.base import Storage

KIND, KEY = "fhir-key", "patient"
_HALF_BYTES = 10
_REMEMBERED = 8192
_ROUNDS = 4  # what makes a permutation of a keyed hash that cannot be told from a random one (Luby and Rackoff)


class PatientIds:
    """Ids of patients from their keys, and digests from ids."""

    def __init__(self, storage: Storage) -> None:
        self.id_of = lru_cache(maxsize=_REMEMBERED)(self._id_of)
        self._storage = storage
        self._lock = threading.Lock()
        self._secret: bytes | None = None

    def _id_of(self, patient_key: str) -> str:
        """The id of the patient with this key (`attributes.patient_key`): 32 letters and digits."""
        left, right = _halves(bytes.fromhex(patient_digest(patient_key)))
        for number in range(_ROUNDS):
            left, right = right, _mixed(left, self._round(number, right))
        return base64.b32encode(left + right).decode().lower()

    def digest_of(self, patient_id: str) -> str | None:
        """The digest of the key of the patient with this id; None for what cannot be an id of ours."""
        try:
            enciphered = base64.b32decode(patient_id.upper().encode("ascii"))
        except (binascii.Error, ValueError):
            return None
        if len(enciphered) != 2 * _HALF_BYTES or patient_id != patient_id.lower():
            return None
        left, right = _halves(enciphered)
        for number in reversed(range(_ROUNDS)):
            left, right = _mixed(right, self._round(number, left)), left
        return (left + right).hex()

    def _round(self, number: int, half: bytes) -> bytes:
        return hashlib.blake2b(half, digest_size=_HALF_BYTES, key=self._key(), salt=bytes([number])).digest()

    def _key(self) -> bytes:
        if self._secret is None:
            with self._lock:
                self._secret = self._stored_key()
        return self._secret

    def _stored_key(self) -> bytes:
        """The key of this archive; made where there is none yet."""
        for _ in range(2):
            try:
                return bytes.fromhex(self._storage.get_document(kind=KIND, document_id=KEY).body["key"])
            except NotFound:
                pass
            try:
                self._storage.put_document(
                    kind=KIND, document_id=KEY, body={"key": secrets.token_hex(32)}, keys={}, expected_version=0
                )
            except VersionConflict:  # another process was faster
                continue
        return bytes.fromhex(self._storage.get_document(kind=KIND, document_id=KEY).body["key"])


def _halves(data: bytes) -> tuple[bytes, bytes]:
    return data[:_HALF_BYTES], data[_HALF_BYTES:]


def _mixed(one: bytes, other: bytes) -> bytes:
    return (int.from_bytes(one) ^ int.from_bytes(other)).to_bytes(_HALF_BYTES)
