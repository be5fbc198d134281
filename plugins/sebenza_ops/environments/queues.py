"""Which queue an environment's tasks wait in, and which connections the workers of a queue need, and no others.

A worker that has no connection of an environment can't change it, whatever it is told to run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel

if TYPE_CHECKING:
    from sebenza_ops.environments.inventory import Inventory
    from sebenza_ops.environments.models import Environment

#: Airflow's `[operators] default_queue`: procedures that serve all environments.
DEFAULT_QUEUE: Final = "default"
#: Not a queue: API server, scheduler and DAG processor, which tell people of failures and change nothing.
CORE: Final = "core"
#: The ledger's connection. Everybody records.
LEDGER_CONN_ID: Final = "ops_ledger"


def queue_of(environment: Environment | None) -> str:
    """The queue of an environment's procedures: its name; `default` for those that serve all environments."""
    return DEFAULT_QUEUE if environment is None else environment.name


def connections_by_place(inventory: Inventory) -> dict[str, tuple[str, ...]]:
    """The ids of the connections that each place needs: `core`, `default`, and the queue of each environment.

    Everybody who may have to tell people has the channels of all environments, and the ledger. A queue has its
    environment's own connections and the build host's, and those of the environment where its deployments are tried
    first. Nothing leads the other way: no queue has production's connections but production's.
    """
    shared = {LEDGER_CONN_ID}
    for environment in inventory.environments.values():
        if environment.policies.channels is not None:
            shared |= set(_conn_ids(environment.policies.channels))
    build = set(_conn_ids(inventory.build)) if inventory.build is not None else set()
    places = {CORE: shared, DEFAULT_QUEUE: shared | build}
    for environment in inventory.environments.values():
        wanted = shared | build | _own(environment)
        deployment = environment.policies.deployment
        first = inventory.environments.get(deployment.first_in or "") if deployment is not None else None
        if first is not None:
            wanted |= _own(first)
        # Its hosts send the snapshots that others ask for.
        wanted |= {
            other.object_store.conn_id
            for other in inventory.environments.values()
            if other.policies.refresh is not None and other.policies.refresh.source == environment.name
        }
        places[queue_of(environment)] = wanted
    return {place: tuple(sorted(found)) for place, found in places.items()}


def _own(environment: Environment) -> set[str]:
    """An environment's connections. Without gates it reads no attestation, and who has that key can sign one."""
    found = set(_conn_ids(environment))
    deployment = environment.policies.deployment
    if deployment is not None and not deployment.gates:
        found.discard(deployment.attestation_conn_id)
    return found


def _conn_ids(value: object) -> Iterator[str]:
    """The values of all fields of a model, and of the models in it, that name a connection."""
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            inner = getattr(value, name)
            if name.endswith("conn_id") and isinstance(inner, str):
                yield inner
            else:
                yield from _conn_ids(inner)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _conn_ids(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _conn_ids(item)
