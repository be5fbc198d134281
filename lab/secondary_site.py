"""Production's secondary site: a standby that streams, a copy of the storage, hosts that wait, and DNS.

It comes with `python -m lab up --secondary-site`. What a disaster recovery has changed stays until production is reset.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable

from lab import application_hosts, emptying, nameserver, object_copy, paths, postgres, releases, supervision
from lab.accounts import write_as
from lab.addresses import SECONDARY_HOST_NAMES
from lab.hosts import ENVIRONMENTS, SECONDARY_SITE
from lab.waiting import LabError, until

STANDBY = SECONDARY_SITE.database_hosts[0]
_COLOR = "blue"

Report = Callable[[str], None]


def turn_on() -> None:
    """From now on this lab has its secondary site whenever it is up."""
    write_as(paths.SECONDARY_SITE_FILE, "")


def is_active() -> bool:
    """Whether the site's database was promoted: a disaster recovery has moved production here."""
    return postgres.has_cluster(STANDBY) and not postgres.is_standby(STANDBY)


def start_standby(report: Report) -> None:
    """Start the site's database: as the replica of production's primary, or as the primary that it has become."""
    if is_active():
        report(f"{STANDBY} was promoted: it is started as the primary that it is (reset production takes it back)")
        supervision.start(STANDBY, "postgresql")
        return
    if not postgres.has_cluster(STANDBY):
        postgres.copy_cluster(STANDBY, ENVIRONMENTS["production"].database_host)
    supervision.start(STANDBY, "postgresql")
    try:
        until(streams, f"{STANDBY}: streams from production's primary", 15, progress=lambda: postgres.replayed(STANDBY))
    except LabError:
        rebuild_standby()


def rebuild_standby() -> None:
    """Make the site's database the replica of production's primary again, whatever it is; what it was is set aside."""
    supervision.readmit(STANDBY, "postgresql")
    supervision.stop(STANDBY, "postgresql")
    if postgres.has_cluster(STANDBY):
        postgres.set_aside(STANDBY)
    if object_copy.foreign_histories():
        object_copy.start_over()
    postgres.copy_cluster(STANDBY, ENVIRONMENTS["production"].database_host)
    supervision.start(STANDBY, "postgresql")
    try:
        until(
            streams,
            f"{STANDBY}: streams from production's primary (its log says why not)",
            progress=lambda: postgres.replayed(STANDBY),
        )
    except LabError as error:
        raise LabError(f"{error}; {_as_seen()}") from None


def destroy_standby() -> None:
    """The site's database is gone, as with its disk: killed, and no file of its cluster is left."""
    supervision.stop(STANDBY, "postgresql")
    shutil.rmtree(postgres.data_directory(STANDBY))


def streams() -> bool:
    """Whether the site's database streams, and production's primary sees it."""
    return STANDBY in _followers() and "streaming" in _receiver()


def _followers() -> list[str]:
    with postgres.connect(postgres.primary_of_production()) as cursor:
        cursor.execute("SELECT application_name FROM pg_stat_replication")
        return [str(name) for (name,) in cursor.fetchall()]


def _receiver() -> list[str]:
    if not postgres.answers(STANDBY):
        return []
    with postgres.connect(STANDBY) as cursor:
        cursor.execute("SELECT status FROM pg_stat_wal_receiver")
        return [str(status) for (status,) in cursor.fetchall()]


def _as_seen() -> str:
    seen = ", ".join(_followers()) or "nobody"
    receiver = ", ".join(_receiver()) or "connected to nobody"
    return f"{postgres.primary_of_production()} sends to {seen}; {STANDBY} is {receiver}"


def prepare_hosts(artifact: releases.Artifact) -> None:
    """Install a release on the site's application hosts, without starting it: its database takes no writes yet."""
    for host in SECONDARY_SITE.application_hosts:
        application_hosts.unpack(host, artifact)
        application_hosts.configure(SECONDARY_SITE, host, _COLOR, artifact.release_id)
    application_hosts.make_live(SECONDARY_SITE, _COLOR, artifact.release_id)


def is_prepared() -> bool:
    """Whether a release was installed on the site's hosts already."""
    return all(
        (application_hosts.color_dir(host, _COLOR) / "app.env").exists() for host in SECONDARY_SITE.application_hosts
    )


def check_health() -> None:
    """Await that the site could take over: it streams, its storage is copied, DNS answers. Raises LabError."""
    for host in SECONDARY_HOST_NAMES:
        supervision.await_listening(host, "sshd")
    if not is_active():
        until(streams, f"{STANDBY}: streams from production's primary", 30)
        until(
            lambda: bool(object_copy.completed_at()),
            f"{object_copy.COPY}: a whole copy is there",
            object_copy.ROUND_SECONDS,
            progress=object_copy.copied,
        )
    nameserver.await_answers()


def reset(artifact: releases.Artifact, report: Report) -> None:
    """Put the site back to where the lab starts out: standby, its color stopped, DNS leading to the primary site."""
    report("secondary site: standby of the primary site, nothing live")
    for host in SECONDARY_SITE.application_hosts:
        if emptying.is_emptied(host):
            report(f"{host}: its files were gone, it is set up anew")
            emptying.furnish(host)
        for color in ("blue", "green"):
            application_hosts.stop_color(host, color)
    prepare_hosts(artifact)
    supervision.readmit(object_copy.COPY, "object-copy")
    supervision.start(object_copy.COPY, "object-copy")
    if is_active() or not streams():
        rebuild_standby()
    nameserver.reset()
