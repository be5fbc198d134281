"""Field types shared by the inventory's models: each says what it accepts in its error message."""

from __future__ import annotations

import base64
import binascii
import datetime
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, field_validator

# user:password@ inside anything that looks like a URL or a DSN.
CREDENTIALS_IN_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s:@]*:[^/\s@]+@", re.IGNORECASE)
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_UTC_TIME = "^([01][0-9]|2[0-3]):[0-5][0-9]$"
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOSTNAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
_HOST_KEY_TYPES = (
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
)

NO_SECRETS = (
    "expected no secret in an inventory file: keep it in an Airflow connection and write the id of that "
    "connection here (a field that ends in conn_id)"
)


def holds_secret(value: str) -> bool:
    """Whether a string is recognisably a secret: credentials inside a URL, or a private key."""
    return bool(CREDENTIALS_IN_URL.search(value) or _PRIVATE_KEY.search(value))


class Model(BaseModel):
    """Base of every inventory model: immutable, refuses unknown fields and secrets."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    @field_validator("*", mode="after")
    @classmethod
    def _refuse_secrets(cls, value: Any) -> Any:
        texts = value if isinstance(value, list | tuple) else (value,)
        if any(isinstance(text, str) and holds_secret(text) for text in texts):
            raise ValueError(NO_SECRETS)
        return value


def _absolute_path(value: str) -> str:
    if not value.startswith("/") or "\0" in value or "\n" in value:
        raise ValueError("expected an absolute path, for example /srv/sebenza")
    if ".." in value.split("/"):
        raise ValueError("expected an absolute path without '..'")
    return value if value == "/" else value.rstrip("/")


def _is_host(value: str) -> bool:
    if re.fullmatch(r"[0-9.]+", value):
        octets = value.split(".")
        return len(octets) == 4 and all(octet.isdigit() and int(octet) <= 255 for octet in octets)
    return bool(_HOSTNAME.fullmatch(value))


def _address(value: str) -> str:
    if not _is_host(value):
        raise ValueError("expected a host name or an IPv4 address, without scheme, port or path")
    return value


def _ipv4(value: str) -> str:
    if not re.fullmatch(r"[0-9.]+", value) or not _is_host(value):
        raise ValueError("expected an IPv4 address")
    return value


def _endpoint(value: str) -> str:
    host, separator, port = value.rpartition(":")
    if not separator or not _is_host(host) or not port.isascii() or not port.isdigit():
        raise ValueError("expected host:port, for example db.sebenza.com:5432")
    if not 1 <= int(port) <= 65535:
        raise ValueError("expected a port from 1 to 65535 after the colon")
    return value


def _url(value: str) -> str:
    scheme, _, rest = value.partition("://")
    host, colon, port = rest.partition(":")
    if scheme != "https" or not _is_host(host):
        raise ValueError("expected https://<host name>, without a path, for example https://app.sebenza.com")
    if colon and not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise ValueError("expected a port from 1 to 65535 after the host name")
    return value


def _url_path(value: str) -> str:
    if not re.fullmatch(r"/[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*", value):
        raise ValueError("expected a path of the application that begins with /, for example /health")
    return value


def _host_key(value: str) -> str:
    expected = (
        "expected the host's public key as `ssh-keyscan -t ed25519 HOST` prints it after the host name: "
        "ssh-ed25519 AAAA..., ecdsa-sha2-nistp256 AAAA... or ssh-rsa AAAA..., without a comment"
    )
    kind, _, encoded = value.partition(" ")
    if kind not in _HOST_KEY_TYPES:
        raise ValueError(expected)
    try:
        blob = base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise ValueError(expected) from error
    # RFC 4253, 6.6: the blob begins with the length and the name of the key's type.
    name = kind.encode()
    if not blob.startswith(len(name).to_bytes(4, "big") + name) or len(blob) <= 4 + len(name):
        raise ValueError(f"{expected}; the base64 part is not a key of type {kind}")
    return value


def _utc_time(value: Any) -> Any:
    if isinstance(value, datetime.time):
        return value
    if not isinstance(value, str) or not re.fullmatch(_UTC_TIME, value):
        raise ValueError('expected a time of day in UTC as quoted hours and minutes, for example "02:00"')
    return datetime.time.fromisoformat(value)


AbsolutePath = Annotated[str, AfterValidator(_absolute_path), Field(json_schema_extra={"pattern": "^/"})]
"""An absolute path; a trailing slash is removed."""

Address = Annotated[str, AfterValidator(_address)]
"""A host name or an IPv4 address."""

IPv4 = Annotated[str, AfterValidator(_ipv4)]
"""An IPv4 address."""

Endpoint = Annotated[str, AfterValidator(_endpoint), Field(json_schema_extra={"pattern": "^.+:[0-9]+$"})]
"""`host:port`."""

HttpsUrl = Annotated[str, AfterValidator(_url), Field(json_schema_extra={"pattern": "^https://"})]
"""`https://host` or `https://host:port`."""

UrlPath = Annotated[str, AfterValidator(_url_path), Field(json_schema_extra={"pattern": "^/"})]
"""A path (and query) below the environment's URL."""

HostKey = Annotated[str, AfterValidator(_host_key), Field(json_schema_extra={"pattern": "^(ssh-|ecdsa-)"})]
"""A public SSH host key: type and base64."""

Port = Annotated[int, Field(ge=1, le=65535)]
"""A TCP port."""

Ratio = Annotated[float, Field(gt=0, le=1)]
"""A share: 0.8 is 80 %."""

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
"""A lower-case name: letters, digits, - and _."""

ConnectionId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,200}$")]
"""Id of an Airflow connection; the secret itself lives there."""

Seconds = Annotated[int, Field(gt=0)]
"""A whole number of seconds."""

Days = Annotated[int, Field(gt=0)]
"""A whole number of days."""

UtcTime = Annotated[
    datetime.time,
    BeforeValidator(_utc_time),
    WithJsonSchema({"type": "string", "pattern": _UTC_TIME}),
]
"""A time of day in UTC, written "HH:MM"."""
