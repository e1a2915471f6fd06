"""Administration over HTTP: users, API keys, share links."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import falcon
import orjson

from dicomweb_server.auth.access import conditions
from dicomweb_server.auth.gate import Gate
from dicomweb_server.auth.rights import Roles
from dicomweb_server.auth.shares import Share
from dicomweb_server.auth.users import User, Users, new_user
from dicomweb_server.errors import BadRequest, ConfigError, Forbidden, NotFound
from dicomweb_server.http.forms import read_fields
from dicomweb_server.http.params import first_parameter, scope_of
from dicomweb_server.permissions import Permission
from dicomweb_server.services.retrieve import Retrieve
from dicomweb_server.storage.base import Storage

_DETAILS = {"fname": "first_name", "lname": "last_name", "gender": "gender", "email": "email"}
_MAX_DETAIL = 200
MAX_COUNT = 1000


class UsersResource:
    """`/api/users`. What older clients name acc, pwd, usertype and status is username, password, roles and disabled."""

    def __init__(self, storage: Storage, roles: Roles, gate: Gate | None, *, registration: bool) -> None:
        self._users = Users(storage)
        self._roles = roles
        self._gate = gate
        self._registration = registration

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Users by name; `_count` and `_offset` give a page."""
        count, offset = _number(req, "_count", 100), _number(req, "_offset", 0)
        users = list(self._users.all())
        _send(resp, {"total": len(users), "users": [_shown(user) for user in users[offset : offset + count]]})

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """A new user, by an administrator."""
        fields = read_fields(req)
        roles = self._checked(fields.get("roles") or fields.get("usertype") or "reader")
        access = fields.get("access", "")
        conditions(access) if access else ()
        user = new_user(*_name_and_password(fields), roles=roles, access=access, details=_details(fields))
        self._users.add(user)
        resp.status = 201
        _send(resp, _shown(user))

    def on_post_register(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Somebody asks for an account, where that is allowed: it waits, disabled, until an administrator enables
        it."""
        if not self._registration or self._gate is None:
            raise Forbidden("accounts are made by an administrator here (auth.registration)")
        fields = read_fields(req)
        user = new_user(*_name_and_password(fields), roles=("reader",), disabled=True, details=_details(fields))
        self._users.add(user)
        resp.status = 202
        _send(resp, {"code": 1, "message": "an administrator has to enable the account", "username": user.name})

    def on_put(self, req: falcon.Request, resp: falcon.Response, name: str) -> None:
        """Change password, roles, access, state or details; what is not named stays."""
        fields = read_fields(req)
        roles = self._checked(fields["roles"]) if "roles" in fields else None
        disabled = _truth(fields["disabled"]) if "disabled" in fields else None
        if fields.get("access"):
            conditions(fields["access"])

        def changed(user: User) -> User:
            return replace(
                user,
                roles=user.roles if roles is None else roles,
                disabled=user.disabled if disabled is None else disabled,
                access=fields.get("access", user.access),
                details={**user.details, **_details(fields)},
            )

        user = self._users.change(name, changed)
        if password := fields.get("password") or fields.get("pwd"):
            user = self._users.set_password(name, password)
        _send(resp, _shown(user))

    def on_delete(self, _req: falcon.Request, resp: falcon.Response, name: str) -> None:
        """Remove a user; their tokens end with them."""
        self._users.remove(name)
        resp.status = 204

    def _checked(self, text: str) -> tuple[str, ...]:
        try:
            return self._roles.checked(text.split(","), "roles")
        except ConfigError as exc:
            raise BadRequest(exc.message) from None


class KeysResource:
    """`/api/keys`: API keys. The text of a key is shown once, when it is made."""

    def __init__(self, roles: Roles, gate: Gate | None) -> None:
        self._roles = roles
        self._gate = gate

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """All keys."""
        _send(resp, {"keys": [_key_shown(key) for key in _on(self._gate).keys.all()]})

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """A new key: name, roles, and if wished permissions, days and access."""
        fields = read_fields(req)
        if not fields.get("name"):
            raise BadRequest("the payload names no name")
        try:
            roles = self._roles.checked(fields.get("roles", "reader").split(","), "roles")
            permissions = tuple(str(Permission(word)) for word in fields.get("permissions", "").split(",") if word)
        except ConfigError as exc:
            raise BadRequest(exc.message) from None
        except ValueError:
            raise BadRequest(f"permissions are a list of {', '.join(Permission)}") from None
        access = fields.get("access", "")
        conditions(access) if access else ()
        key, text = _on(self._gate).keys.make(
            fields["name"][:100],
            roles=roles,
            seconds=_days(fields.get("days", "0")) * 86_400,
            permissions=permissions,
            access=access,
            created_by=req.context.identity.name,
        )
        resp.status = 201
        _send(resp, {**_key_shown(key), "key": text})

    def on_delete(self, _req: falcon.Request, resp: falcon.Response, key_id: str) -> None:
        """Revoke a key."""
        _on(self._gate).keys.revoke(key_id)
        resp.status = 204


class SharesResource:
    """Share links: made and listed at a study, revoked by id."""

    def __init__(self, gate: Gate | None, retrieve: Retrieve, *, seconds: int) -> None:
        self._gate = gate
        self._retrieve = retrieve
        self._seconds = seconds

    def on_post(self, req: falcon.Request, resp: falcon.Response, study_uid: str) -> None:
        """A new link: `days` until it expires, `view_only`, a `note`."""
        gate = _on(self._gate)
        scope = scope_of(study_uid=study_uid)
        self._retrieve.version(scope=scope)  # NotFound for what is not there
        next(iter(self._retrieve.instances(scope=scope)))
        fields = read_fields(req)
        days = _days(fields.get("days", "0"))
        share, token = gate.shares.make(
            study_uid,
            created_by=req.context.identity.name,
            seconds=min(days * 86_400, self._seconds) if days else self._seconds,
            view_only=_truth(fields.get("view_only", "false")),
            note=fields.get("note", "")[:_MAX_DETAIL],
        )
        resp.status = 201
        _send(resp, {**_share_shown(share), "url": f"{req.context.address.root}/share/{token}"})

    def on_get(self, _req: falcon.Request, resp: falcon.Response, study_uid: str) -> None:
        """The links to a study."""
        scope = scope_of(study_uid=study_uid)
        self._retrieve.version(scope=scope)
        _send(resp, {"shares": [_share_shown(share) for share in _on(self._gate).shares.all(study_uid=study_uid)]})

    def on_delete(self, _req: falcon.Request, resp: falcon.Response, study_uid: str, share_id: str) -> None:
        """Revoke a link."""
        shares = _on(self._gate).shares
        if share_id not in {share.share_id for share in shares.all(study_uid=study_uid)}:
            raise NotFound("there is no such link to this study")
        shares.revoke(share_id)
        resp.status = 204


def _on(gate: Gate | None) -> Gate:
    if gate is None:
        raise NotFound('nobody has to log in here (auth.method is "none")')
    return gate


def _name_and_password(fields: Mapping[str, str]) -> tuple[str, str]:
    name, password = fields.get("username") or fields.get("acc"), fields.get("password") or fields.get("pwd")
    if not name or not password:
        raise BadRequest("the payload names username and password")
    return name, password


def _details(fields: Mapping[str, str]) -> dict[str, str]:
    return {ours: fields[theirs][:_MAX_DETAIL] for theirs, ours in _DETAILS.items() if fields.get(theirs)}


def _shown(user: User) -> dict[str, Any]:
    return {
        "username": user.name,
        "roles": list(user.roles),
        "disabled": user.disabled,
        "access": user.access,
        **user.details,
    }


def _key_shown(key: Any) -> dict[str, Any]:
    return {
        "id": key.key_id,
        "name": key.name,
        "roles": list(key.roles),
        "permissions": list(key.permissions),
        "access": key.access,
        "expires": int(key.expires) or None,
        "created_by": key.created_by,
    }


def _share_shown(share: Share) -> dict[str, Any]:
    return {
        "id": share.share_id,
        "study_uid": share.study_uid,
        "created_by": share.created_by,
        "expires": int(share.expires),
        "view_only": share.view_only,
        "note": share.note,
    }


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise BadRequest("what can be true or false is true or false")
    return text.lower() in ("true", "1")


def _days(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        raise BadRequest("days are a whole number")
    return int(text)


def _number(req: falcon.Request, name: str, default: int) -> int:
    text = first_parameter(req, name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 8):
        raise BadRequest(f"{name} is a whole number, 0 or more")
    return min(int(text), MAX_COUNT) if name == "_count" else int(text)


def _send(resp: falcon.Response, body: Mapping[str, Any]) -> None:
    resp.content_type = "application/json"
    resp.set_header("Cache-Control", "no-store")
    resp.data = orjson.dumps(body)
