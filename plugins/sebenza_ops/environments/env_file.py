"""The application's env file: rendering, reading, and the drift check.

Pure functions. Resolving secrets from Airflow connections, and reading the file from a host, is the
business of `sebenza_ops.systems`. The rendered text holds secrets: it goes to the host's file and nowhere
else; comparisons never show a secret.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets as random_source
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from sebenza_ops.environments.hosts import Color, Host
from sebenza_ops.environments.models import Environment

_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
_ASSIGNMENT = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")
_QUOTED = re.compile(r"""'([^']*)'|"((?:[^"\\]|\\.)*)\"""")
# Read as themselves without quotes by Node.js, dotenv and a POSIX shell alike.
_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,=-]*")
_RELEASE = re.compile(r"[A-Za-z0-9._+-]+")

# Every other variable found on a host is treated as a secret too: what we did not write we can't judge.
PUBLIC_VARIABLES = frozenset(
    {
        "NODE_ENV",
        "APP_HOST",
        "APP_PORT",
        "LOG_LEVEL",
        "SESSION_TIMEOUT",
        "DB_POOL_SIZE",
        "DB_QUERY_TIMEOUT",
        "CACHE_TTL",
        "METRICS_ENABLED",
        "METRICS_ENDPOINT",
        "SEBENZA_COLOR",
        "SEBENZA_LOG_DIR",
    }
)


class EnvFileError(ValueError):
    """An env file can't be written or read; the message names the variable or line, never the value."""


def _url_of(*schemes: str) -> AfterValidator:
    def check(value: SecretStr) -> SecretStr:
        text = value.get_secret_value()
        if not text.startswith(tuple(f"{scheme}://" for scheme in schemes)):
            raise ValueError(f"expected a URL that begins with {' or '.join(f'{s}://' for s in schemes)} (not shown)")
        return value

    return AfterValidator(check)


class ApplicationSecrets(BaseModel):
    """The application's secrets for one environment, resolved just before they are written to a host."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    database_url: Annotated[SecretStr, _url_of("postgresql", "postgres"), Field(description="DATABASE_URL.")]
    cache_url: Annotated[SecretStr, _url_of("redis", "rediss"), Field(description="REDIS_URL.")]
    alerts_webhook: Annotated[
        Annotated[SecretStr, _url_of("https", "http")] | None, Field(description="ALERTS_WEBHOOK; none: no webhook.")
    ] = None


def application_variables(
    environment: Environment, color: Color, host: Host, secrets: ApplicationSecrets
) -> dict[str, str]:
    """Return every variable that the application reads, in the order of the file. Holds secrets."""
    settings = environment.application.settings
    webhook = secrets.alerts_webhook.get_secret_value() if secrets.alerts_webhook else ""
    return {
        "NODE_ENV": environment.node_environment,
        "APP_HOST": host.address,
        "APP_PORT": str(environment.application.colors[color].process_port),
        "DATABASE_URL": secrets.database_url.get_secret_value(),
        "REDIS_URL": secrets.cache_url.get_secret_value(),
        "LOG_LEVEL": settings.app.log_level,
        "SESSION_TIMEOUT": str(settings.app.session_timeout_seconds),
        "DB_POOL_SIZE": str(settings.database.pool_size),
        "DB_QUERY_TIMEOUT": str(settings.database.query_timeout_milliseconds),
        "CACHE_TTL": str(settings.cache.ttl_seconds),
        "METRICS_ENABLED": "true" if settings.monitoring.enabled else "false",
        "METRICS_ENDPOINT": settings.monitoring.metrics_endpoint,
        "ALERTS_WEBHOOK": webhook,
        "SEBENZA_COLOR": color.value,
        "SEBENZA_LOG_DIR": host.path(environment.application.log_dir),
    }


def render_env_file(
    environment: Environment, color: Color, host: Host, release: str, secrets: ApplicationSecrets
) -> str:
    """Return the text of `app.env` for one color on one host. Holds secrets.

    The same input gives the same text. `release` (the release id) stands in a comment, for people.
    Raises `EnvFileError` for a value that can't be written safely.
    """
    if not _RELEASE.fullmatch(release):
        raise EnvFileError(f"release id {release!r}: expected letters, digits and . _ + - only")
    lines = [
        f"# {environment.name}, {color} on {host.name}, release {release}.",
        "# Written by a deployment. Don't edit: the next deployment overwrites it, the drift check reports it.",
    ]
    for name, value in application_variables(environment, color, host, secrets).items():
        lines.append(format_variable(name, value))
    return "\n".join(lines) + "\n"


def format_variable(name: str, value: str) -> str:
    """Return `NAME=value`, quoted so that Node.js, dotenv and a POSIX shell all read `value`.

    Raises `EnvFileError` for what these three don't agree on: control characters and line breaks, and a
    single quote together with any of `"`, `$`, a backslash or a backtick.
    """
    if not _NAME.fullmatch(name):
        raise EnvFileError(f"variable {name!r}: expected upper-case letters, digits and _ only")
    if not value.isprintable():
        raise EnvFileError(f"{name}: the value has a line break or control character; an env file can't hold it")
    if _PLAIN.fullmatch(value):
        return f"{name}={value}"
    if "'" not in value:
        return f"{name}='{value}'"
    if not any(character in value for character in '"$\\`'):
        return f'{name}="{value}"'
    raise EnvFileError(
        f'{name}: the value has a single quote together with one of " $ \\ `, which no quoting keeps everywhere; '
        "in a URL write %27 for the single quote"
    )


def parse_env_file(text: str) -> dict[str, str]:
    """Return the variables of an env file, read as the application reads them.

    Raises `EnvFileError` with the line's number (never its text) for what is no assignment and for a
    variable that is set twice.
    """
    variables: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        match = _ASSIGNMENT.fullmatch(stripped)
        if match is None:
            raise EnvFileError(f"line {number}: expected NAME=value")
        name, raw = match.groups()
        if name in variables:
            raise EnvFileError(f"line {number}: {name} is set a second time")
        variables[name] = _unquote(raw, number, name)
    return variables


def _unquote(raw: str, number: int, name: str) -> str:
    if not raw.startswith(("'", '"')):
        return re.sub(r"\s+#.*$", "", raw)
    match = _QUOTED.match(raw)
    if match is None:
        raise EnvFileError(f"line {number}: {name} has no closing quote")
    rest = raw[match.end() :].strip()
    if rest and not rest.startswith("#"):
        raise EnvFileError(f"line {number}: {name} has text after its closing quote")
    literal, escaped = match.groups()
    if literal is not None:
        return str(literal)
    return re.sub(r"\\(.)", lambda found: "\n" if found[1] == "n" else found[1], escaped)


class DriftKind(StrEnum):
    """How a setting differs from what it should be."""

    MISSING = "missing"
    UNEXPECTED = "unexpected"
    DIFFERS = "differs"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class SettingDrift:
    """One variable that is not as it should be.

    `expected` and `actual` are values for public variables. For secrets they are short salted hashes:
    enough to see whether two hosts differ in the same way, of no use for anything else. None: not set.
    """

    name: str
    kind: DriftKind
    expected: str | None
    actual: str | None
    secret: bool

    def __str__(self) -> str:
        if self.kind is DriftKind.UNREADABLE:
            return f"env file can't be read: {self.actual}"
        if self.kind is DriftKind.MISSING:
            return f"{self.name}: is missing" + ("" if self.secret else f", expected {self.expected!r}")
        if self.kind is DriftKind.UNEXPECTED:
            return f"{self.name}: is set (value not shown), expected it not to be"
        if self.secret:
            return f"{self.name}: differs (secret, values not shown)"
        return f"{self.name}: is {self.actual!r}, expected {self.expected!r}"


def compare_settings(expected: str, actual: str, salt: bytes | None = None) -> list[SettingDrift]:
    """Compare two env files by variable; comments and order don't matter. Empty: no drift.

    Secrets are compared and shown as hashes salted with `salt`; without one a fresh salt is used. Pass
    the same salt for all hosts of one check to make their hashes comparable, and don't keep it.
    """
    should = parse_env_file(expected)
    try:
        found = parse_env_file(actual)
    except EnvFileError as error:
        return [SettingDrift("", DriftKind.UNREADABLE, None, str(error), secret=False)]
    key = salt if salt is not None else random_source.token_bytes(32)
    drifts: list[SettingDrift] = []
    for name in [*should, *(name for name in found if name not in should)]:
        secret = name not in PUBLIC_VARIABLES
        pair = [_shown(key, name, values.get(name), secret) for values in (should, found)]
        if pair[0] == pair[1]:
            continue
        kind = DriftKind.UNEXPECTED if pair[0] is None else DriftKind.MISSING if pair[1] is None else DriftKind.DIFFERS
        drifts.append(SettingDrift(name, kind, _shortened(pair[0], secret), _shortened(pair[1], secret), secret))
    return drifts


def settings_fingerprint(text: str, salt: bytes) -> str:
    """Return a salted hash of an env file's variables: equal exactly when `compare_settings` is empty.

    It can be kept as evidence of what was deployed; it tells nothing without the salt.
    """
    digest = hmac.new(salt, digestmod=hashlib.sha256)
    for name, value in sorted(parse_env_file(text).items()):
        # Lengths keep ("A", "BC") and ("AB", "C") apart.
        for part in (name.encode(), value.encode()):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _shown(salt: bytes, name: str, value: str | None, secret: bool) -> str | None:
    if value is None or not secret:
        return value
    return hmac.new(salt, f"{name}={value}".encode(), hashlib.sha256).hexdigest()


def _shortened(shown: str | None, secret: bool) -> str | None:
    return shown[:8] if shown is not None and secret else shown
