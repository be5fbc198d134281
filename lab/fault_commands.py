"""`python -m lab break` and `python -m lab mend`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from lab import faults
from lab.backup_damage import HOWS, KINDS
from lab.fault_register import Fault
from lab.faults import CORRUPTIONS, CUTS
from lab.site_faults import SITES

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_commands(commands: Commands) -> None:
    """Add `break` and `mend` to the lab's commands."""
    breaking = commands.add_parser("break", help="break something, for real (see: break --help)")
    kinds = breaking.add_subparsers(required=True, metavar="FAULT")

    kill = kinds.add_parser("kill", help="SIGKILL a service, a color (blue, green), or everything on a host")
    kill.add_argument("host", metavar="HOST")
    kill.add_argument("service", metavar="SERVICE", nargs="?")
    kill.add_argument("--comes-back", action="store_true", help="let its manager start it again at once")
    kill.set_defaults(run=lambda each: _made(faults.kill(each.host, each.service, comes_back=each.comes_back)))

    stop = kinds.add_parser("stop", help="stop a service properly")
    stop.add_argument("host", metavar="HOST")
    stop.add_argument("service", metavar="SERVICE")
    stop.set_defaults(run=lambda each: _made(faults.stop(each.host, each.service)))

    cut = kinds.add_parser("cut", help="cut a host, or some traffic of it, from everybody")
    cut.add_argument("host", metavar="HOST")
    cut.add_argument("what", metavar="WHAT", nargs="?", default="all", help=f"{', '.join(CUTS)}, or a port")
    cut.add_argument("--reset", action="store_true", help="answer with a TCP reset instead of silence")
    cut.set_defaults(run=lambda each: _made(faults.cut(each.host, each.what, reset=each.reset)))

    slow = kinds.add_parser("slow", help="delay a port of a host")
    slow.add_argument("host", metavar="HOST")
    slow.add_argument("port", metavar="PORT", type=int)
    slow.add_argument("seconds", metavar="SECONDS", type=float)
    slow.set_defaults(run=lambda each: _made(faults.slow(each.host, each.port, each.seconds)))

    fill = kinds.add_parser("fill-disk", help="leave no free byte in a directory of a host")
    fill.add_argument("host", metavar="HOST")
    fill.add_argument("directory", metavar="DIRECTORY", nargs="?", default="/srv/sebenza/releases")
    fill.set_defaults(run=lambda each: _made(faults.fill_disk(each.host, each.directory)))

    empty = kinds.add_parser(
        "empty", help="take every file but sshd's from an application host, as if it were replaced"
    )
    empty.add_argument("host", metavar="HOST")
    empty.set_defaults(run=lambda each: _made(faults.empty(each.host)))

    corrupt = kinds.add_parser("corrupt", help="spoil a marker or a load balancer's map")
    corrupt.add_argument("host", metavar="HOST")
    corrupt.add_argument("target", choices=["marker", "last-good", "map", "map-in-memory"])
    corrupt.add_argument("how", choices=CORRUPTIONS)
    corrupt.set_defaults(run=lambda each: _made(faults.corrupt(each.host, each.target, each.how)))
    backup = kinds.add_parser("damage-backup", help="spoil an object of a repository or a dump")
    backup.add_argument("environment", choices=["production", "staging"])
    backup.add_argument("kind", choices=list(KINDS))
    backup.add_argument("how", choices=HOWS)
    backup.set_defaults(run=lambda each: _made(faults.damage_backup(each.environment, each.kind, each.how)))

    site = kinds.add_parser("site", help="SIGKILL everything at a site, its Airflow, ledger and storage too")
    site.add_argument("site", metavar="SITE", choices=list(SITES), help=", ".join(SITES))
    site.add_argument("--keep-airflow", action="store_true", help="let Airflow run, as if it stood elsewhere")
    site.set_defaults(run=lambda each: _made(faults.kill_site(each.site, airflow=not each.keep_airflow)))

    refuse = kinds.add_parser("refuse-dns", help="let the name server refuse updates of the zone")
    refuse.set_defaults(run=lambda _: _made(faults.refuse_dns()))

    clock = kinds.add_parser("skew-clock", help="let the clock of a database host be wrong; PostgreSQL is restarted")
    clock.add_argument("host", metavar="HOST")
    clock.add_argument("seconds", metavar="SECONDS", type=int, help="ahead; behind where it is negative")
    clock.set_defaults(run=lambda each: _made(faults.skew_clock(each.host, each.seconds)))

    absent = kinds.add_parser("metrics-absent", help="take Prometheus away")
    absent.set_defaults(run=lambda _: _made(faults.metrics_absent()))

    reload = kinds.add_parser("reload", help="reload HAProxy (nothing to mend)")
    reload.add_argument("host", metavar="HOST")
    reload.set_defaults(run=lambda each: faults.reload_haproxy(each.host))

    restart = kinds.add_parser("restart", help="restart HAProxy (nothing to mend)")
    restart.add_argument("host", metavar="HOST")
    restart.set_defaults(run=lambda each: faults.restart_haproxy(each.host))

    mend = commands.add_parser("mend", help="mend one fault, or all of them and await health")
    mend.add_argument("fault", metavar="FAULT", nargs="?", help="its id, as `status` shows it (default: all)")
    mend.set_defaults(run=_mend)


def _made(fault: Fault) -> None:
    if fault.id:
        print(f"lab: {fault}  (mend it: python -m lab mend {fault.id})")
    else:
        print(f"lab: {fault.kind} {fault.host} {fault.detail}: done, its manager starts it again")


def _mend(arguments: argparse.Namespace) -> None:
    mended = faults.mend(arguments.fault)
    for fault in mended:
        print(f"lab: mended {fault}")
    if arguments.fault is None:
        print("lab: every part is healthy")
