"""What can be reached from where: this worker and every host that answers look at the same targets.

One place alone can't tell a site that is gone from a way that is cut.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping, Sequence

from sebenza_ops.environments.models import Environment, Host
from sebenza_ops.systems.errors import NoDataError, OutsideSystemError
from sebenza_ops.systems.ssh import HostSession, on_hosts, script_argv

__all__ = ["THIS_WORKER", "https_target", "look_around", "parse_sightings", "tcp_target"]

THIS_WORKER = "this worker"
PROBE_SECONDS = 3

Seen = Mapping[str, bool]


def tcp_target(address: str, port: int) -> str:
    """A port that takes connections."""
    return f"tcp:{address}:{port}"


def https_target(address: str, port: int, path: str) -> str:
    """A load balancer whose page answers below 500."""
    return f"https:{address}:{port}:{path}"


def parse_sightings(text: str, targets: Sequence[str], place: str) -> dict[str, bool]:
    """The output of include/hosts/site_probe.sh. Raises NoDataError when a target is not in it."""
    found = dict(line.rsplit(" ", 1) for line in text.splitlines() if " " in line)
    wrong = [target for target in targets if found.get(target) not in {"yes", "no"}]
    if wrong:
        raise NoDataError(f"what is reached can't be read, of {wrong[0]}: {text[:200]!r}", host=place)
    return {target: found[target] == "yes" for target in targets}


def look_around(
    environment: Environment, hosts: Iterable[Host], targets: Sequence[str], seconds: int = PROBE_SECONDS
) -> dict[str, Seen | OutsideSystemError]:
    """What this worker and each of the hosts reaches, or why the host could not look, by the place's name."""
    arguments = [str(seconds), environment.public_hostname, *targets]

    def look(session: HostSession) -> Seen:
        text = session.run_script("site_probe", arguments, timeout_seconds=seconds + 15).stdout
        return parse_sightings(text, targets, session.host.name)

    found: dict[str, Seen | OutsideSystemError] = {THIS_WORKER: _from_here(arguments, targets, seconds)}
    found.update(on_hosts(hosts, environment.ssh_conn_id, look))
    return found


def _from_here(arguments: Sequence[str], targets: Sequence[str], seconds: int) -> Seen | OutsideSystemError:
    argv = script_argv("site_probe", arguments)
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, check=True, timeout=seconds + 15, stdin=subprocess.DEVNULL
        )
        return parse_sightings(done.stdout, targets, THIS_WORKER)
    except (OSError, subprocess.SubprocessError) as error:
        return OutsideSystemError(f"it could not look: {error}", host=THIS_WORKER)
    except NoDataError as error:
        return error
