"""Passwords: what is a good enough one, and argon2id for keeping them (RFC 9106)."""

import secrets
import threading

import argon2

from dicomweb_server.errors import BadRequest

MIN_CHARACTERS = 10
MAX_BYTES = 1024
_AT_ONCE = 4  # each takes 19 MiB for its time: a flood of logins must not take the memory

# The parameters that OWASP names for argon2id; about 15 ms on a processor of today.
_hasher = argon2.PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_slots = threading.BoundedSemaphore(_AT_ONCE)
# Compared with for a user who does not exist, so that it takes the time of one who does.
_NOBODY = _hasher.hash(secrets.token_urlsafe(24))


def check_strength(password: str, *, user: str) -> None:
    """Raise BadRequest for a password that is too short, too long or the name of the user (NIST SP 800-63B)."""
    if len(password) < MIN_CHARACTERS:
        raise BadRequest(f"a password has at least {MIN_CHARACTERS} characters")
    if len(password.encode()) > MAX_BYTES:
        raise BadRequest(f"a password has at most {MAX_BYTES} bytes")
    if password.casefold() == user.casefold() or len(set(password)) < 4:
        raise BadRequest("a password is not the name of its user, nor one character again and again")


def new_password() -> str:
    """One that nobody guesses."""
    return secrets.token_urlsafe(15)


def hashed(password: str) -> str:
    """What is kept of a password."""
    with _slots:
        return _hasher.hash(password)


def matches(password: str, kept: str | None) -> bool:
    """Whether it is the password of what is kept; takes as long for None, which is never right."""
    if len(password.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        password, kept = "", None
    with _slots:
        try:
            _hasher.verify(kept or _NOBODY, password)
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            return False
    return kept is not None
