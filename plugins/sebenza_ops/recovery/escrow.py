"""The credentials that a recovery needs, sealed for the operators and kept at the secondary site.

The file is what `make break-glass` reads, encrypted with age: whoever has the operators' identity and the file can
recover without anything of the primary site.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sebenza_ops.changes import ChangeRun
from sebenza_ops.environments.models import Environment, EscrowPolicy
from sebenza_ops.recovery.disaster_plan import DisasterRefusedError
from sebenza_ops.systems.age import Identity, escrow_key, seal_for
from sebenza_ops.systems.drill_instance import RepositoryKeys
from sebenza_ops.systems.errors import OutsideSystemError
from sebenza_ops.systems.object_store import ObjectStorage

SEALED_ACTION = "escrow.sealed"


def secondary_of(environment: Environment) -> Environment:
    """The environment as it is at its secondary site. Raises DisasterRefusedError."""
    site = environment.secondary_site
    if site is None:
        raise DisasterRefusedError(f"{environment.name} has no secondary site in the inventory: nothing was changed")
    return environment.at_site(site.name)


def policy_of(environment: Environment) -> EscrowPolicy:
    """The policy. Raises DisasterRefusedError."""
    recovery = environment.policies.disaster_recovery
    if recovery is None or recovery.escrow is None:
        raise DisasterRefusedError(f"{environment.name} has no policies.disaster_recovery.escrow: nothing was changed")
    return recovery.escrow


def escrowed_ids(environment: Environment) -> tuple[str, ...]:
    """Every connection that the environment names while its secondary site serves; not the key of the escrow itself."""
    placed = secondary_of(environment).model_dump(mode="json", exclude={"sites"})
    return tuple(sorted(set(_ids_in(placed))))


def _ids_in(value: Any) -> Iterable[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            is_id = isinstance(inner, str) and str(key).endswith("conn_id") and key != "identity_conn_id"
            yield from [str(inner)] if is_id else _ids_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _ids_in(inner)


def gather(ids: Iterable[str]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The connections as a credentials file has them, and those that are not there.

    Keys that lie in files of this machine travel along: the files would not be there.
    """
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowNotFoundException

    found: dict[str, dict[str, Any]] = {}
    missing = []
    for conn_id in ids:
        try:
            connection = BaseHook.get_connection(conn_id)
        except AirflowNotFoundException:
            missing.append(conn_id)
            continue
        extra = dict(connection.extra_dejson)
        if extra.get("key_file"):
            extra["private_key"] = Path(str(extra.pop("key_file"))).read_text()
        values = {
            "conn_type": connection.conn_type,
            "host": connection.host,
            "port": connection.port,
            "login": connection.login,
            "password": connection.password,
            "schema": connection.schema,
            "extra": extra or None,
        }
        found[conn_id] = {name: value for name, value in values.items() if value is not None}
    return found, missing


def seal(run: ChangeRun) -> str:
    """Seal the credentials and put them at the secondary site; what is there is proven to be this. Returns a summary.

    Raises DisasterRefusedError when a connection is missing: a recovery would miss it, too.
    """
    import yaml

    environment, policy = run.environment, policy_of(run.environment)
    ids = escrowed_ids(environment)
    connections, missing = gather(ids)
    if missing:
        raise DisasterRefusedError(
            f"nothing was changed: the connections {', '.join(missing)}, which the inventory names for the secondary "
            "site, are not here; a recovery from there would miss them"
        )
    sealed = seal_for(policy.recipient, yaml.safe_dump(connections, sort_keys=True).encode())
    storage, key = ObjectStorage(secondary_of(environment).object_store), escrow_key(environment.name)
    storage.put_bytes(key, sealed, "application/octet-stream")
    if storage.get_bytes(key) != sealed:
        raise OutsideSystemError(f"{key} is not what was put there", host="object storage")
    digest = hashlib.sha256(sealed).hexdigest()
    detail = {"run": str(run.holder), "connections": list(ids), "recipient": policy.recipient, "sha256": digest}
    run.ledger.audit.append(SEALED_ACTION, run.holder.actor, environment.name, key, detail)
    text = f"{len(ids)} connections are sealed for {policy.recipient[:12]}… in {key} at the secondary site"
    run.note(text, "success")
    return text


def open_escrow(environment: Environment) -> dict[str, dict[str, Any]]:
    """The escrowed connections, opened with the operators' identity.

    Raises DisasterRefusedError when there are none, SealError when the identity does not open them.
    """
    import yaml

    storage, key = ObjectStorage(secondary_of(environment).object_store), escrow_key(environment.name)
    sealed = storage.get_bytes(key)
    if sealed is None:
        raise DisasterRefusedError(f"there is no {key} at the secondary site: run escrow_credentials")
    identity = Identity.from_connection(policy_of(environment).identity_conn_id)
    opened = yaml.safe_load(identity.open(sealed))
    if not isinstance(opened, dict):
        raise DisasterRefusedError(f"{key} holds no connections: run escrow_credentials")
    return opened


def keys_of(environment: Environment, connections: Mapping[str, Mapping[str, Any]]) -> RepositoryKeys:
    """What opens the secondary site's copy of the backups, from escrowed connections. Raises DisasterRefusedError."""
    backup = secondary_of(environment).policies.backup
    if backup is None:
        raise DisasterRefusedError(f"{environment.name} has no policies.backup: there is nothing to restore")
    try:
        cipher, repository = connections[backup.cipher_conn_id], connections[backup.repository_conn_id]
        return RepositoryKeys(str(cipher["password"]), str(repository["login"]), str(repository["password"]))
    except KeyError as error:
        raise DisasterRefusedError(f"the escrow lacks {error}, without which no backup opens") from error


def stale_ids(escrowed: Mapping[str, Mapping[str, Any]], current: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The connections that are another one by now, or missing in the escrow."""
    return sorted(
        conn_id
        for conn_id, value in current.items()
        if json.dumps(escrowed.get(conn_id), sort_keys=True) != json.dumps(value, sort_keys=True)
    )
