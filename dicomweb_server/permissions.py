"""What a route needs from who asks. Every operation of the route table names one."""

from enum import StrEnum


class Permission(StrEnum):
    """PUBLIC is open to all, also without login. The others are one each for a kind of access."""

    PUBLIC = "public"
    SEARCH = "search"
    RETRIEVE = "retrieve"
    STORE = "store"
    EDIT = "edit"
    DELETE = "delete"
    RESTORE = "restore"
    SHARE = "share"
    AUDIT = "audit"
    METRICS = "metrics"
    ADMIN = "admin"
