"""Breaking the estate on purpose, and mending it.

Every fault is real: a kill is SIGKILL to a process group, a cut is a packet filter rule, a full disk
is a full file system. Each function returns a `Fault`: mend it with `mend(fault)`, or use it as a
context manager. All of them need root and a lab that is up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from lab import (
    application_hosts,
    backup_damage,
    clocks,
    damage,
    emptying,
    estate,
    haproxy,
    kernel,
    nameserver,
    network,
    pm2_processes,
    site_faults,
    supervision,
)
from lab.addresses import (
    ALERTMANAGER_PORT,
    COLOR_PORTS,
    HTTP_PORT,
    HTTPS_PORT,
    POSTGRES_PORT,
    PROMETHEUS_PORT,
    REDIS_PORT,
    SSH_PORT,
    STATS_PORT,
    address,
)
from lab.fault_register import Fault, active, add, find, remove, update
from lab.hosts import SERVICES, check_host, check_service, environment_of
from lab.waiting import LabError

__all__ = [
    "CORRUPTIONS",
    "CUTS",
    "Fault",
    "active",
    "corrupt",
    "cut",
    "damage_backup",
    "empty",
    "fill_disk",
    "kill",
    "kill_site",
    "mend",
    "metrics_absent",
    "refuse_dns",
    "reload_haproxy",
    "restart_haproxy",
    "skew_clock",
    "slow",
    "stop",
]

# What can be cut from a host, and the ports that it means (none: every port, both ways).
CUTS: Final[dict[str, tuple[int, ...]]] = {
    "all": (),
    "ssh": (SSH_PORT,),
    "http": (HTTPS_PORT, HTTP_PORT, *(port for ports in COLOR_PORTS.values() for port in ports)),
    "stats": (STATS_PORT,),
    "database": (POSTGRES_PORT,),
    "cache": (REDIS_PORT,),
    "metrics": (PROMETHEUS_PORT, ALERTMANAGER_PORT),
}

CORRUPTIONS: Final = ("missing", "empty", "garbage", "wrong")


def kill(host: str, service: str | None = None, *, comes_back: bool = False) -> Fault:
    """SIGKILL a service with its process group, a color ("blue", "green"), or everything on the host.

    It stays dead until mended. With `comes_back` its manager starts it again at once, as
    systemd (or PM2, for a color) does, and nothing is left to mend.
    """
    if service is None:
        fault = add("kill", check_host(host))
        supervision.kill_host(host)
        return fault
    if service in COLOR_PORTS:
        if comes_back:
            pm2_processes.kill(host, service)
            return Fault("", "kill", host, service)
        fault = add("kill", host, service)
        pm2_processes.kill_for_good(host, service)
        return fault
    check_service(host, service)
    if comes_back:
        supervision.kill_service(host, service, comes_back=True)
        return Fault("", "kill", host, service)
    fault = add("kill", host, service)
    supervision.kill_service(host, service)
    return fault


def stop(host: str, service: str) -> Fault:
    """Stop a service the way its manager does; it stays stopped until mended."""
    check_service(host, service)
    fault = add("stop", host, service)
    supervision.stop(host, service)
    return fault


def cut(host: str, what: str | int = "all", *, reset: bool = False) -> Fault:
    """Cut a host, or one kind of traffic or one port of it, from everybody; existing connections too.

    Packets vanish, as when a cable is pulled: nobody is told. With `reset`, existing connections are
    closed and new ones refused.
    """
    ports = _ports(what)
    rules = network.cut_rules(address(check_host(host)), ports, reset=reset)
    fault = add("cut", host, f"{what}{' (reset)' if reset else ''}", {"rules": rules})
    kernel.add_rules(rules)
    if reset:
        for port in ports or (None,):
            network.close_connections(address(host), port)
    return fault


def _ports(what: str | int) -> tuple[int, ...]:
    if isinstance(what, int):
        return (what,)
    if what.isdecimal():
        return (int(what),)
    if what not in CUTS:
        raise KeyError(f"can't cut {what!r}; expected a port or one of {', '.join(CUTS)}")
    return CUTS[what]


def slow(host: str, port: int, delay_seconds: float) -> Fault:
    """Delay everything that is sent to and answered by a port of a host: half the delay each way.

    Connections that exist are closed first where the kernel can (`ss --kill`), for only new ones are delayed.
    """
    fault = add("slow", check_host(host), f"port {port} by {delay_seconds:g} s")
    proxy = network.start_delay_proxy(host, port, delay_seconds)
    rules = [network.redirect_rule(address(host), port, proxy.port)]
    fault = update(fault, pid=proxy.pid, nat_rules=rules)
    kernel.add_rules(rules, "nat")
    network.close_connections(address(host), port)
    return fault


def fill_disk(host: str, directory: str = "/srv/sebenza/releases") -> Fault:
    """Leave no free byte in a directory of a host. What is in it stays readable."""
    fault = add("fill-disk", check_host(host), directory)
    damage.fill(host, directory, fault.id)
    return fault


def empty(host: str) -> Fault:
    """Take everything from an application host but sshd and its service manager, as if the machine were replaced.

    Mending sets it up anew with v1.0.0 in blue, unless a procedure has brought it back meanwhile.
    """
    fault = add("empty", check_host(host))
    emptying.empty(host)
    return fault


def corrupt(host: str, target: str, how: str) -> Fault:
    """Spoil what procedures read on a host.

    `target`: "marker" (current-color), "last-good" (last-good-release), "map" (HAProxy's map file), or
    "map-in-memory" (the running HAProxy's map). `how`: "missing", "empty", "garbage", or "wrong" (the other
    color). Mending puts the original back only where nobody has repaired it meanwhile.
    """
    if how not in CORRUPTIONS:
        raise KeyError(f"can't corrupt to {how!r}; expected one of {', '.join(CORRUPTIONS)}")
    before, spoiled = damage.plan(check_host(host), target, how)
    fault = add("corrupt", host, f"{target} {how}", {"target": target, "before": before, "spoiled": spoiled})
    damage.write(host, target, spoiled)
    return fault


def kill_site(name: str, *, airflow: bool = True) -> Fault:
    """SIGKILL every process of a site, Airflow and storage among them, and take its ledger away."""
    return site_faults.kill_site(name, airflow=airflow)


def refuse_dns() -> Fault:
    """Let the name server refuse updates (REFUSED); it goes on answering what the zone has."""
    check_host(nameserver.AUTHORITATIVE)
    fault = add("refuse-dns", nameserver.AUTHORITATIVE)
    nameserver.refuse_updates(True)
    return fault


def damage_backup(environment: str, kind: str, how: str) -> Fault:
    """Spoil the newest object of a kind in the backups of an environment: "gone", "cut" or "damaged"."""
    key = backup_damage.newest(environment, kind)
    backup_damage.spoiled(b"0", how)
    fault = add("damage-backup", "storage", f"{kind} of {environment} {how}", {"key": key})
    backup_damage.spoil(key, how, fault.id)
    return fault


def skew_clock(host: str, seconds: int) -> Fault:
    """Let a database host's clock be so many seconds ahead, or behind where it is negative; PostgreSQL is restarted."""
    check_service(host, "postgresql")
    fault = add("skew-clock", host, f"{seconds:+d} s")
    clocks.set_wrong(host, seconds)
    return fault


def metrics_absent() -> Fault:
    """Take Prometheus away: its process is killed and stays dead."""
    return kill("monitoring", "prometheus")


def reload_haproxy(host: str) -> None:
    """Reload HAProxy, as a configuration push or a certificate renewal does. Nothing to mend."""
    haproxy.reload(check_service(host, "haproxy") and host)


def restart_haproxy(host: str) -> None:
    """Restart HAProxy, as a package upgrade does. Nothing to mend."""
    haproxy.restart(check_service(host, "haproxy") and host)


def mend(fault: Fault | str | None = None, *, wait_for_health: bool | None = None) -> list[Fault]:
    """Undo one fault, or all of them, the latest first; the faults that were mended.

    After mending all (or with `wait_for_health`) it returns when every part of the estate is healthy.
    """
    if fault is None:
        chosen = active()[::-1]
    else:
        chosen = [find(fault)] if isinstance(fault, str) else [each for each in active() if each.id == fault.id]
    for each in chosen:
        _MENDS[each.kind](each)
        remove(each)
    if wait_for_health if wait_for_health is not None else fault is None:
        estate.check_health()
    return chosen


def _mend_killed(fault: Fault) -> None:
    if not fault.detail:
        estate.start_host(fault.host)
    elif fault.detail in COLOR_PORTS:
        pm2_processes.start_again(fault.host, fault.detail)
    elif supervision.is_up(fault.host):
        estate.start_service(fault.host, fault.detail)
    else:
        raise LabError(f"{fault.host} is down: mend that first, then {fault.id}")


def _mend_cut(fault: Fault) -> None:
    kernel.remove_rules(fault.undo.get("rules", []))


def _mend_slow(fault: Fault) -> None:
    kernel.remove_rules(fault.undo.get("nat_rules", []), "nat")
    if "pid" in fault.undo:
        network.stop_delay_proxy(int(fault.undo["pid"]))


def _mend_disk(fault: Fault) -> None:
    damage.unfill(fault.host, fault.detail, fault.id)


def _mend_emptied(fault: Fault) -> None:
    environment = environment_of(fault.host)
    if environment is None:
        return
    if emptying.is_emptied(fault.host):
        estate.reset([environment.name], estate.Progress())
        return
    emptying.furnish(fault.host)
    color = application_hosts.live_color(environment.load_balancers[0])
    if fault.host in environment.application_hosts and (
        color is None or not application_hosts.is_healthy(fault.host, color)
    ):
        # A restore that came to no end.
        estate.reset([environment.name], estate.Progress())


def _mend_corrupted(fault: Fault) -> None:
    target = str(fault.undo["target"])
    if damage.read(fault.host, target) == fault.undo["spoiled"]:
        damage.write(fault.host, target, fault.undo["before"])


_MENDS: Final[dict[str, Callable[[Fault], Any]]] = {
    "kill": _mend_killed,
    "kill-site": site_faults.mend_site,
    "refuse-dns": lambda _: nameserver.refuse_updates(False),
    "stop": _mend_killed,
    "cut": _mend_cut,
    "slow": _mend_slow,
    "fill-disk": _mend_disk,
    "empty": _mend_emptied,
    "corrupt": _mend_corrupted,
    "skew-clock": lambda fault: clocks.set_right(fault.host),
    "damage-backup": lambda fault: backup_damage.put_back(str(fault.undo["key"]), fault.id),
}


def services(host: str) -> tuple[str, ...]:
    """What `kill` takes as a service of a host."""
    found = SERVICES[check_host(host)]
    return (*found, *COLOR_PORTS) if "pm2" in found else found
