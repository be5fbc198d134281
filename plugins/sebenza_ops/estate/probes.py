"""What the worker asks by itself: TLS, object storage, database, monitoring, ledger. Nothing is changed.

One exception: the object storage is written to, below `checks/`, because nothing else shows that it can be; the object
is deleted at once. Every question ends within a few seconds, and a system that does not answer is a reading, not an
error.
"""

from __future__ import annotations

import hashlib
import http.client
import socket
import ssl
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

from sebenza_ops.environments.models import Environment, Host, ObjectStore, Role
from sebenza_ops.estate.gathered import DatabaseReading, LedgerReading, MetricsReading, StorageReading, TlsReading
from sebenza_ops.systems.errors import NoDataError, OutsideSystemError

if TYPE_CHECKING:
    from sebenza_ops.systems.object_store import ObjectStorage

TIMEOUT_SECONDS = 5.0

_VERSIONS = {
    "TLS 1.0": ssl.TLSVersion.TLSv1,
    "TLS 1.1": ssl.TLSVersion.TLSv1_1,
    "TLS 1.2": ssl.TLSVersion.TLSv1_2,
    "TLS 1.3": ssl.TLSVersion.TLSv1_3,
}


def read_tls(environment: Environment, host: Host) -> TlsReading:
    """Meet one load balancer as a user does, with the public host name and the inventory's CA."""
    balancing, hostname = environment.load_balancing, environment.public_hostname
    where = (host.address, balancing.https_port)
    try:
        socket.create_connection(where, TIMEOUT_SECONDS).close()
    except OSError as error:
        return TlsReading(host.name, reachable=False, error=_reason(error))
    expires_at, error_text = None, ""
    try:
        context = ssl.create_default_context(cafile=balancing.ca_file)
        with _handshake(context, where, hostname) as connection:
            certificate = connection.getpeercert() or {}
        ends = str(certificate.get("notAfter", ""))
        expires_at = datetime.fromtimestamp(ssl.cert_time_to_seconds(ends), UTC)
    except (OSError, ValueError) as error:
        error_text = _reason(error)
    return TlsReading(
        host.name,
        reachable=True,
        error=error_text,
        expires_at=expires_at,
        versions={name: _takes(version, where, hostname) for name, version in _VERSIONS.items()},
        redirect=_redirect(environment, host),
    )


def _handshake(context: ssl.SSLContext, where: tuple[str, int], hostname: str) -> ssl.SSLSocket:
    plain = socket.create_connection(where, TIMEOUT_SECONDS)
    try:
        return context.wrap_socket(plain, server_hostname=hostname)
    except BaseException:
        plain.close()
        raise


def _takes(version: ssl.TLSVersion, where: tuple[str, int], hostname: str) -> bool:
    """Whether the server takes this version. The certificate is looked at elsewhere."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with warnings.catch_warnings():
        # That old versions are deprecated is why they are tried.
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = version
        context.maximum_version = version
    # OpenSSL 3 offers TLS 1.0 and 1.1 only at security level 0.
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    try:
        _handshake(context, where, hostname).close()
    except (OSError, ValueError):
        return False
    return True


def _redirect(environment: Environment, host: Host) -> str:
    """Where plain HTTP leads: the Location header, else the status, else why there is no answer."""
    connection = http.client.HTTPConnection(host.address, environment.load_balancing.http_port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/", headers={"Host": environment.public_hostname})
        answer = connection.getresponse()
        return answer.getheader("Location") or f"HTTP {answer.status}"
    except (OSError, http.client.HTTPException) as error:
        return _reason(error)
    finally:
        connection.close()


class StorageProbe:
    """A round trip through an object store. The object is there between `write` and `delete`.

    Args:
        store: The inventory's object store.
        environment: The environment's name, for the object's key.
    """

    def __init__(self, store: ObjectStore, environment: str) -> None:
        self._store = store
        self._key = f"checks/{environment}/{uuid4()}"
        self._content = f"written by check_environment.{environment}, deleted at once\n".encode()
        self._storage: ObjectStorage | None = None
        self._steps: dict[str, str] = {}
        self._endpoint, self._is_tls = "", True
        self.transfer_source = ""

    def write(self) -> None:
        """Write, read and sign. Stops at the first step that fails."""
        from sebenza_ops.systems.object_store import ObjectStorage

        try:
            self._storage = ObjectStorage(self._store)
            config = self._storage.hook.conn_config
        # The hook raises what its connection's mistakes make: a missing connection, wrong JSON, a missing CA file.
        except Exception as error:
            self._steps["connection"] = _reason(error)
            return
        self._endpoint = str(config.get_service_endpoint_url("s3") or "")
        self._is_tls = not self._endpoint.startswith("http://") and config.verify is not False
        unreachable = self._unreachable()
        if unreachable:
            self._steps["connection"] = unreachable
            return
        storage = self._storage
        for step, action in (("write", self._write), ("read", self._read), ("sign", self._sign)):
            if not self._take(step, lambda action=action: action(storage)):  # type: ignore[misc]
                return

    def delete(self) -> None:
        """Delete the object, if it was written."""
        storage = self._storage
        if storage is not None and self._steps.get("write") == "":
            self._take("delete", lambda: storage.hook.delete_objects(self._store.bucket, storage.full_key(self._key)))

    def reading(self) -> StorageReading:
        """How it went."""
        signed = hashlib.sha256(self._content).hexdigest() if self.transfer_source else ""
        return StorageReading(self._endpoint, self._is_tls, dict(self._steps), signed)

    def _unreachable(self) -> str:
        """Why the endpoint takes no connection: the client library would try again for minutes."""
        parts = urlsplit(self._endpoint)
        if not parts.hostname:
            return ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((parts.hostname, port), TIMEOUT_SECONDS).close()
        except OSError as error:
            return f"{self._endpoint}: {_reason(error)}"
        return ""

    def _write(self, storage: ObjectStorage) -> None:
        storage.put_bytes(self._key, self._content, "text/plain")

    def _read(self, storage: ObjectStorage) -> None:
        if storage.get_bytes(self._key) != self._content:
            raise OutsideSystemError("what was read is not what was written", host="object storage")

    def _sign(self, storage: ObjectStorage) -> None:
        self.transfer_source = storage.transfer_source(self._key)

    def _take(self, step: str, action: Callable[[], Any]) -> bool:
        try:
            action()
        # Each step is a finding of its own, whatever the provider raises for it.
        except Exception as error:
            self._steps[step] = _reason(error)
            return False
        self._steps[step] = ""
        return True


def read_database(environment: Environment) -> DatabaseReading:
    """Ask the environment's database through its connection."""
    from airflow.providers.postgres.hooks.postgres import PostgresHook

    conn_id = environment.database.conn_id
    hook = PostgresHook(postgres_conn_id=conn_id, options="-c statement_timeout=5000", log_sql=False)
    hook.database = environment.database.name
    connection = hook.get_connection(conn_id)
    active = environment.active_site
    elsewhere = [host.name for host in environment.hosts if Role.DATABASE in host.roles and host.site != active]
    where = f"{connection.host}:{connection.port or 5432}"
    try:
        socket.create_connection((connection.host or "", connection.port or 5432), TIMEOUT_SECONDS).close()
    except OSError as error:
        return DatabaseReading(where, error=_reason(error), is_reachable=False)
    try:
        row = hook.get_first(_DATABASE_QUERY, parameters=(elsewhere,))
        has_schema = bool(row[5])
        schema = hook.get_first(_SCHEMA_QUERY) if has_schema else (None, 0)
    # psycopg's errors, and the hook's own for a connection that can't be used.
    except Exception as error:
        return DatabaseReading(where, error=_reason(error))
    return DatabaseReading(
        where=where,
        version=int(row[0]),
        in_recovery=bool(row[1]),
        replicas=int(row[2]),
        max_connections=int(row[3]),
        may_create=bool(row[4]),
        schema_revision=int(schema[0] or 0) if has_schema else None,
        unfinished_migrations=int(schema[1]),
    )


# Rows of pg_stat_replication are shown to everybody; only their details are not. A standby of another site, which calls
# itself by its host's name (cluster_name), is no replica that could take over here.
_DATABASE_QUERY = """
SELECT current_setting('server_version_num'), pg_is_in_recovery(),
       (SELECT count(*) FROM pg_stat_replication WHERE coalesce(application_name, '') <> ALL (%s)),
       current_setting('max_connections'),
       has_schema_privilege(current_user, 'public', 'CREATE'), to_regclass('public.schema_migrations') IS NOT NULL
"""
_SCHEMA_QUERY = "SELECT max(number), count(*) FILTER (WHERE finished_at IS NULL) FROM public.schema_migrations"


def read_metrics(environment: Environment) -> MetricsReading:
    """Ask Prometheus for the series by which bakes are judged. Only for an inventory that names one."""
    from sebenza_ops.systems.prometheus import Prometheus

    conn_id = environment.monitoring.prometheus_conn_id
    if conn_id is None:
        raise ValueError(f"{environment.name} has no Prometheus")
    selector = f'{{environment="{environment.name}"}}'
    series: dict[str, set[str]] = {}
    ages: dict[str, float] = {}
    try:
        prometheus = Prometheus(conn_id)
        try:
            for sample in prometheus.query(
                f"count by (color, release) (http_request_duration_seconds_count{selector})"
            ):
                series.setdefault(sample.labels.get("color", ""), set()).add(sample.labels.get("release", ""))
            newest = f"max by (color) (timestamp(http_request_duration_seconds_count{selector}))"
            for sample in prometheus.query(newest):
                ages[sample.labels.get("color", "")] = max(sample.at - sample.value, 0.0)
            backends = prometheus.query(f"count by (proxy) (haproxy_backend_http_responses_total{selector})")
        finally:
            prometheus.close()
    except (OutsideSystemError, NoDataError) as error:
        return MetricsReading(error=str(error))
    return MetricsReading(
        series={color: tuple(sorted(releases)) for color, releases in series.items()},
        age_seconds=ages,
        load_balancer_series=len(backends),
    )


def read_alertmanager(conn_id: str) -> str:
    """Why Alertmanager is not ready; empty when it is."""
    import requests
    from airflow.providers.http.hooks.http import HttpHook

    try:
        hook = HttpHook(method="GET", http_conn_id=conn_id)
        session = hook.get_conn()
        answer = session.get(f"{hook.base_url.rstrip('/')}/-/ready", timeout=TIMEOUT_SECONDS)
    except requests.RequestException as error:
        return f"no answer ({type(error).__name__})"
    return "" if answer.ok else f"HTTP {answer.status_code}"


def read_ledger(environment: str) -> LedgerReading:
    """Whether the ledger answers, and who holds the environment's lease."""
    from sebenza_ops.ledger import Ledger, LedgerError

    try:
        lease = Ledger.from_connection().leases.current(environment)
    except LedgerError as error:
        return LedgerReading(error=str(error))
    return LedgerReading(change=f"{lease.holder} ({lease.purpose})" if lease is not None else "")


def _reason(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"not trusted: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return " ".join(str(error).split())[:300] or type(error).__name__
