"""What was gathered from an environment: texts and numbers, not yet judged. Env files are secret: shown nowhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from sebenza_ops.environments.models import Color
from sebenza_ops.systems.database_server import ServerState
from sebenza_ops.systems.dns_records import Answer, RecordSet
from sebenza_ops.systems.errors import OutsideSystemError
from sebenza_ops.systems.haproxy import parse_sections


@dataclass(frozen=True)
class ClockReading:
    """A host's clock against this worker's, in seconds: the difference, and how far it can be wrong."""

    skew_seconds: float
    uncertainty_seconds: float


@dataclass(frozen=True)
class ServiceReading:
    """A service of a host: what its manager says of it, and whether the login may move it (None: can't be told)."""

    service: str
    unit: str
    state: str
    at_boot: str = ""
    may_move: bool | None = None


@dataclass
class HostReading:
    """What one host said. `error` is set when it could not be reached; `texts` has the scripts' parts by script."""

    host: str
    error: OutsideSystemError | None = None
    presented_key: str = ""
    clock: ClockReading | None = None
    texts: dict[str, dict[str, str]] = field(default_factory=dict)
    services: list[ServiceReading] = field(default_factory=list)
    env_files: dict[Color, str] = field(default_factory=dict, repr=False)
    answers: dict[str, tuple[int, str]] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)

    def take(self, script: str, text: str) -> None:
        """Keep a script's output by its parts."""
        self.texts[script] = parse_sections(text)

    def part(self, script: str, name: str) -> str:
        """A part of a script's output; empty when the script said nothing of it."""
        return self.texts.get(script, {}).get(name, "")


@dataclass(frozen=True)
class TlsReading:
    """A TLS handshake with a load balancer. `error` says why the certificate is not trusted for the public name."""

    host: str
    reachable: bool
    error: str = ""
    expires_at: datetime | None = None
    versions: dict[str, bool] = field(default_factory=dict)
    redirect: str = ""


@dataclass(frozen=True)
class StorageReading:
    """A round trip through the object storage, as the worker sees it. `steps` has an error, or "", by step."""

    endpoint: str
    is_tls: bool
    steps: dict[str, str] = field(default_factory=dict)
    sha256: str = ""


@dataclass(frozen=True)
class DatabaseReading:
    """What the database says to the worker. `error` is set when it could not be asked."""

    where: str
    error: str = ""
    is_reachable: bool = True
    version: int = 0
    in_recovery: bool = False
    replicas: int = 0
    max_connections: int = 0
    may_create: bool = False
    schema_revision: int | None = None
    unfinished_migrations: int = 0


@dataclass(frozen=True)
class MetricsReading:
    """What Prometheus says. `series` has, by color, the releases seen; `age_seconds` the age of the newest sample."""

    error: str = ""
    series: dict[str, tuple[str, ...]] = field(default_factory=dict)
    age_seconds: dict[str, float] = field(default_factory=dict)
    load_balancer_series: int = 0


@dataclass
class BackupReading:
    """What a database host said to the owner of its cluster. `*_matches`: whether its secrets are the connections'."""

    host: str
    error: str = ""
    parts: dict[str, str] = field(default_factory=dict)
    cipher_matches: bool | None = None
    key_matches: bool | None = None

    def part(self, name: str) -> str:
        """A part of what it said; empty when it said nothing of it."""
        return self.parts.get(name, "")


@dataclass(frozen=True)
class LedgerReading:
    """Whether the ledger answers, and who changes the environment right now; empty when nobody does."""

    error: str = ""
    change: str = ""


@dataclass(frozen=True)
class EscrowReading:
    """The sealed credentials in a site's storage: how old they are; None when there are none."""

    key: str
    age_seconds: float | None = None
    error: str = ""


@dataclass
class SiteReading:
    """A site that does not serve: its databases and those of the site that does, its storage, how fresh its copy is."""

    site: str
    primaries: dict[str, ServerState | OutsideSystemError] = field(default_factory=dict)
    standbys: dict[str, ServerState | OutsideSystemError] = field(default_factory=dict)
    storage: StorageReading | None = None
    copy_seconds: float | None = None
    copy_error: str = ""
    backups: dict[str, BackupReading] = field(default_factory=dict)
    escrow: EscrowReading | None = None


@dataclass(frozen=True)
class DnsRecordReading:
    """A record in its zone (None: why not), why it may not be changed, and what each server answers for it."""

    record: RecordSet | None
    error: str = ""
    right_error: str = ""
    answers: dict[str, Answer] = field(default_factory=dict)


@dataclass(frozen=True)
class DnsReading:
    """The environment's records by name; or why none could be looked at."""

    error: str = ""
    records: dict[str, DnsRecordReading] = field(default_factory=dict)


@dataclass
class EstateReading:
    """Everything that was gathered from one environment."""

    environment: str
    hosts: dict[str, HostReading] = field(default_factory=dict)
    connections: dict[str, str | None] = field(default_factory=dict)
    logins: dict[str, str] = field(default_factory=dict)
    tls: list[TlsReading] = field(default_factory=list)
    storage: StorageReading | None = None
    database: DatabaseReading | None = None
    metrics: MetricsReading | None = None
    alertmanager: str | None = None
    ledger: LedgerReading | None = None
    backups: dict[str, BackupReading] = field(default_factory=dict)
    expected_env_files: dict[tuple[str, Color], str] = field(default_factory=dict, repr=False)
    secrets_error: str = ""
    sites: list[SiteReading] = field(default_factory=list)
    dns: DnsReading | None = None
