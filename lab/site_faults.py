"""A whole site that is gone: every process there, Airflow, the ledger and the object storage."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Final

from lab import estate, paths, supervision
from lab.fault_register import Fault, add
from lab.hosts import PRIMARY_SITE_HOSTS, SERVICES
from lab.supervision import ServiceState

SITES: Final[dict[str, tuple[str, ...]]] = {"primary": PRIMARY_SITE_HOSTS}

_LEDGER = paths.LAB_DIR / "ledger"
_LEDGER_AWAY = paths.FAULTS_DIR / "ledger"
# Who must be there before the others can start.
_FIRST = ("storage", "db1", "db2", "dbendpoint", "cache")


def kill_site(name: str, *, airflow: bool = True) -> Fault:
    """SIGKILL everything that runs on the hosts of a site, and take its ledger away.

    Args:
        name: The site.
        airflow: The lab's Airflow, which stands there, too. Without it a test can watch from outside.

    What does not belong to the site stays: other environments, the mailbox, the secondary site, DNS.
    """
    if name not in SITES:
        raise KeyError(f"can't kill the site {name!r}; expected {', '.join(SITES)}")
    fault = add("kill-site", name, "with its Airflow" if airflow else "")
    if airflow:
        from lab.airflow.settings import lab_settings
        from lab.airflow.supervision import Supervision

        Supervision(lab_settings()).kill()
    with ThreadPoolExecutor(max_workers=8) as pool:
        list(pool.map(supervision.kill_host, SITES[name]))
    if _LEDGER.exists():
        _LEDGER.rename(_LEDGER_AWAY)
    return fault


def mend_site(fault: Fault) -> None:
    """Bring the machines of a site back as they are: a database that was the primary starts as one, unless it is fenced
    or its guard finds that the other site has a primary.

    Airflow stays down: `python -m lab.airflow up`. Of two ledgers the site's own stays; what was written meanwhile is
    set aside beside it.
    """
    if _LEDGER_AWAY.exists():
        if _LEDGER.exists():
            _LEDGER.rename(_LEDGER.with_name(f"ledger-written-during-{fault.id}"))
        _LEDGER_AWAY.rename(_LEDGER)
    hosts = SITES[fault.host]
    for host in (*_FIRST, *(host for host in hosts if host not in _FIRST)):
        estate.power_on(host)
        for service in SERVICES[host]:
            if not _is_fenced(supervision.states(host), service):
                estate.start_service(host, service)


def _is_fenced(states: list[ServiceState], service: str) -> bool:
    return any(state.name == service and state.state == "FENCED" for state in states)
