"""What can be reached from where: this worker and every host that answers look at the same targets.

One place alone can't tell a site that is gone from a way that is cut.
"""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Mapping, Sequence
from http.client import HTTPException, HTTPResponse

from sebenza_ops.systems.errors import NoDataError, OutsideSystemError
from sebenza_ops.systems.ssh import HostSession, script_argv

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


def look_from(session: HostSession, hostname: str, targets: Sequence[str], seconds: int = PROBE_SECONDS) -> Seen:
    """What a host reaches. Raises the host's errors, and NoDataError."""
    arguments = [str(seconds), hostname, *targets]
    text = session.run_script("site_probe", arguments, timeout_seconds=seconds + 15).stdout
    return parse_sightings(text, targets, session.host.name)


def look_from_here(hostname: str, targets: Sequence[str], seconds: int = PROBE_SECONDS) -> Seen | OutsideSystemError:
    """What this worker reaches, or why it could not look."""
    argv = script_argv("site_probe", [str(seconds), hostname, *targets])
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, check=True, timeout=seconds + 15, stdin=subprocess.DEVNULL
        )
        return parse_sightings(done.stdout, targets, THIS_WORKER)
    except (OSError, subprocess.SubprocessError) as error:
        return OutsideSystemError(f"it could not look: {error}", host=THIS_WORKER)
    except NoDataError as error:
        return error


def ask_as_user(
    address: str, port: int, hostname: str, path: str, ca_file: str | None, seconds: float = 5.0
) -> tuple[int, str]:
    """A page as a user gets it at this address: TLS by the public name. Returns the status and the text.

    Raises OutsideSystemError, also for a certificate that is not good for the name.
    """
    trust = ssl.create_default_context(cafile=ca_file)
    try:
        with (
            socket.create_connection((address, port), timeout=seconds) as plain,
            trust.wrap_socket(plain, server_hostname=hostname) as secure,
        ):
            request = f"GET {path} HTTP/1.1\r\nHost: {hostname}\r\nConnection: close\r\n\r\n"
            secure.sendall(request.encode())
            answer = HTTPResponse(secure)
            answer.begin()
            return answer.status, answer.read(1_000_000).decode(errors="replace")
    except (OSError, HTTPException) as error:
        raise OutsideSystemError(f"{hostname} at {address}:{port} does not answer: {error}", host=address) from error
