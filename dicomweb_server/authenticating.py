"""The login that the settings describe: for the application, and for the commands."""

import logging
import time
from dataclasses import dataclass

from dicomweb_server.audit.syslog import SyslogSink
from dicomweb_server.audit.trail import AuditTrail
from dicomweb_server.auth.access import Rules
from dicomweb_server.auth.base import Parts
from dicomweb_server.auth.gate import Gate, GateRules
from dicomweb_server.auth.rights import ANONYMOUS, Identity, Roles
from dicomweb_server.auth.secret import server_secret
from dicomweb_server.auth.users import Users, new_user
from dicomweb_server.errors import BadRequest, ConfigError, Conflict
from dicomweb_server.plugins import authenticator_class
from dicomweb_server.settings import NO_LOGIN, Settings
from dicomweb_server.storage.base import Storage

_log = logging.getLogger("dicomweb_server.auth")


@dataclass(frozen=True, slots=True)
class Login:
    """The roles, the gate and the audit trail; None where nobody has to log in, or nothing is audited."""

    roles: Roles
    gate: Gate | None = None
    trail: AuditTrail | None = None
    audit_days: int = 0

    def purge(self) -> int:
        """Delete for good some of what is of no use any more: expired sessions, records that are too old; gives how
        much."""
        purged = self.gate.purge_expired() if self.gate is not None else 0
        if self.trail is not None and self.audit_days:
            purged += self.trail.purge_older(days=self.audit_days)
        return purged

    def close(self) -> None:
        """Write what the trail still holds, and release connections."""
        if self.trail is not None:
            self.trail.close()
        if self.gate is not None:
            self.gate.close()


def open_login(settings: Settings, storage: Storage) -> Login:
    """The login over an opened storage. Raises ConfigError."""
    auth = settings.auth
    roles = Roles(auth.roles, auth.role_map)
    rules = Rules(auth.access)
    if auth.method == NO_LOGIN:
        if auth.access or auth.anonymous_role:
            raise ConfigError('auth.access and auth.anonymous_role need a login: auth.method is "none"')
        return Login(roles)
    parts = Parts(storage=storage, roles=roles, rules=rules, clock=time.time)
    authenticator = authenticator_class(auth.method).from_settings(settings=settings.auth_section, parts=parts)
    gate = Gate(
        authenticator,
        parts,
        secret=server_secret(auth.secret, settings.storage.directory),
        rules=GateRules(
            anonymous=_anonymous(auth.anonymous_role, roles, rules),
            strict=auth.bearer == "strict",
            basic=auth.basic,
            access_seconds=auth.access_seconds,
            refresh_seconds=auth.refresh_seconds,
        ),
    )
    if auth.method == "jwt":
        _first_admin(settings, Users(storage))
    return Login(roles, gate, open_trail(settings, storage), settings.audit.retention_days)


def open_trail(settings: Settings, storage: Storage) -> AuditTrail | None:
    """The audit trail over an opened storage; None where nothing is audited. Raises ConfigError."""
    audit = settings.audit
    if not audit.enabled:
        return None
    return AuditTrail(storage, sinks=[SyslogSink(audit.syslog, ca_file=audit.syslog_ca_file)] if audit.syslog else [])


def _anonymous(role: str, roles: Roles, rules: Rules) -> Identity | None:
    if not role:
        return None
    names = roles.checked([role], "auth.anonymous_role")
    return Identity(
        name=ANONYMOUS,
        kind=ANONYMOUS,
        roles=names,
        permissions=roles.permissions(names),
        terms=rules.of_anonymous(),
    )


def _first_admin(settings: Settings, users: Users) -> None:
    """Make the first administrator where the settings have a password for one, and there is no user at all."""
    if next(users.all(), None) is not None:
        return
    name, password = settings.auth.first_admin, settings.auth.first_admin_password
    if not password:
        _log.warning("nobody can log in yet: make the first user with `dicomweb-server user add %s`", name)
        return
    try:
        users.add(new_user(name, password, roles=("admin",)))
    except BadRequest as exc:
        raise ConfigError(f"auth.first_admin_password: {exc.message}") from None
    except Conflict:
        return  # another worker was first
    _log.info("made the first administrator, %s", name)
