"""What an installation in containers must know of the lab: inventory, connections, certificate authority, login key.

`python -m lab.handover DIRECTORY` writes them, as an operator would write those of real hosts: one file of connections
for each place, with what that place needs and nothing else.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

from lab import inventory, paths
from lab.airflow.settings import write_private
from sebenza_ops.environments.inventory import load_inventory
from sebenza_ops.environments.queues import LEDGER_CONN_ID, connections_by_place

#: Where docker-compose.yaml mounts further certificate authorities, in Airflow's containers as in the lab's.
TRUSTED_CA = "/opt/sebenza/trust/ca.pem"


def hand_over(directory: Path) -> None:
    """Write `environments/`, `connections/`, `trust/ca.pem` and `operator.pub`.

    The ledger is the installation's own, so it is not among the connections.
    """
    (directory / "environments").mkdir(parents=True, exist_ok=True)
    for file in sorted(paths.ENVIRONMENTS_DIR.glob("*.yaml")):
        text = file.read_text().replace(str(paths.CA_FILE), TRUSTED_CA)
        (directory / "environments" / file.name).write_text(text)
    (directory / "trust").mkdir(exist_ok=True)
    (directory / "trust" / "ca.pem").write_text(paths.CA_FILE.read_text())
    (directory / "operator.pub").write_text(paths.OPERATOR_KEY.with_suffix(".pub").read_text())
    known = {name: _portable(connection) for name, connection in inventory.connections().items()}
    for place, ids in connections_by_place(load_inventory(paths.ENVIRONMENTS_DIR)).items():
        found = {name: known[name] for name in ids if name != LEDGER_CONN_ID}
        write_private(directory / "connections" / f"{place}.yaml", yaml.safe_dump(found, sort_keys=False))


def _portable(connection: dict[str, Any]) -> dict[str, Any]:
    """A connection that names no file of the lab: keys travel in it, the authority has its own place."""
    extra = dict(connection.get("extra", {}))
    if "key_file" in extra:
        extra["private_key"] = Path(extra.pop("key_file")).read_text()
    if "verify" in extra:
        extra["verify"] = TRUSTED_CA
    return {**connection, "extra": extra} if extra else connection


if __name__ == "__main__":
    hand_over(Path(sys.argv[1]))
