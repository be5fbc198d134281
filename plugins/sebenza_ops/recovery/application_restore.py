"""Bringing an application host back from its archive, after its machine was replaced."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from sebenza_ops.changes import ChangeRun, run_key
from sebenza_ops.environments.components import Service
from sebenza_ops.environments.env_file import render_env_file
from sebenza_ops.environments.inventory import load_inventory
from sebenza_ops.environments.models import ApplicationBackupPolicy, Color, Environment, Role
from sebenza_ops.evidence.facts import GateFact, OutcomeFact
from sebenza_ops.ledger import BackupKind, Release
from sebenza_ops.recovery.restore_rules import (
    RestoreRefusedError,
    chosen_set,
    live_color,
    out_on_purpose,
    restorable_hosts,
    serving,
    what_is_live,
)
from sebenza_ops.recovery.rotation import HostRotation
from sebenza_ops.run_evidence import store_evidence
from sebenza_ops.systems.age import Identity, SealError
from sebenza_ops.systems.application_hosts import ApplicationHost
from sebenza_ops.systems.application_secrets import resolve_secrets
from sebenza_ops.systems.archive_manifest import Manifest, differences, in_the_way, shown
from sebenza_ops.systems.errors import NoDataError, OutsideSystemError
from sebenza_ops.systems.host_archives import (
    ArchiveSet,
    HostArchive,
    fetched,
    read_back,
    read_manifest,
    stored_sets,
)
from sebenza_ops.systems.object_store import ObjectStorage
from sebenza_ops.systems.services import ServiceState, services_of
from sebenza_ops.systems.ssh import on_hosts, open_session

DAEMON_DEADLINE_SECONDS = 20.0
POLL_SECONDS = 0.3
HEALTH_TIMEOUT_SECONDS = 60.0
# The tasks that change nothing on the estate.
BEFORE_CHANGE = ("acquire_lease", "plan_restore")


class RestorePlan(BaseModel):
    """What will be restored on which host, and what must run on it at the end.

    `in_the_way` says in words what is on the host now; empty for a host that has nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    environment: str
    host: str
    archive: ArchiveSet
    color: Color
    release_id: str
    is_spare: bool = False
    in_the_way: str = ""

    def text(self) -> str:
        """The plan as a line for people."""
        aside = f"; moved aside first: {self.in_the_way}" if self.in_the_way else ""
        made = f"{self.archive.made_at:%F %R} UTC"
        return (
            f"restore {self.host} from {self.archive.label} ({self.archive.files} files of {made}), "
            f"then run {self.release_id} on {self.color}, as the other hosts do{aside}"
        )


def plan_restore(run: ChangeRun, params: Mapping[str, Any]) -> RestorePlan:
    """Look at the load balancers, the peers, the archive and the host; refuse, or plan. Changes nothing but the ledger.

    Raises RestoreRefusedError.
    """
    environment, name = run.environment, str(params["host"])
    if name not in {host.name for host in restorable_hosts(environment)}:
        raise RestoreRefusedError(f"{name} is no application host of {environment.name}: nothing was touched")
    machine = environment.host(name)
    states = HostRotation(run, name, Color.BLUE).states()
    color = live_color(environment, states)
    up = serving(environment, name, color, states)
    if up:
        raise RestoreRefusedError(
            f"{name} is in rotation ({', '.join(up)}), users are served by it: nothing was touched. Only a host that "
            "serves nobody is restored."
        )
    out = out_on_purpose(environment, name, color, states)
    if out:
        raise RestoreRefusedError(
            f"{name} was taken out by people ({', '.join(out)}): set it to ready or drain there first, a restore does "
            "not end a maintenance. Nothing was touched."
        )
    release_id = str(params.get("release_id") or "") or _live_release(environment, name, color)
    _known_release(run, release_id)
    archive, manifest = _proven_archive(run, name, str(params.get("backup") or ""))
    with open_session(machine, _policy(environment).ssh_conn_id) as session:
        host_archive = HostArchive(environment, _policy(environment), session, run_key(run.holder))
        obstacles = in_the_way(manifest, host_archive.look(), [environment.application.state_dir])
        if obstacles and not params.get("move_aside") and not host_archive.has_begun():
            raise RestoreRefusedError(
                f"{name} is not empty: {len(obstacles)} files are not what the backup would put there, "
                f"{shown(obstacles)}. Nothing was touched. Start the run with move_aside to keep them in "
                f"{host_archive.aside}."
            )
    plan = RestorePlan(
        environment=environment.name,
        host=name,
        archive=archive,
        color=color,
        release_id=release_id,
        is_spare=machine.spare,
        in_the_way=shown(obstacles) if obstacles else "",
    )
    run.note(f"plan: {plan.text()}")
    return plan


def restore_files(run: ChangeRun, plan: RestorePlan) -> None:
    """Take the host out of rotation, unpack the archive beside, compare it, put it into its places, compare again.

    Raises RestoreRefusedError, and the hosts' errors. Killed, it converges when it is repeated.
    """
    environment, policy = run.environment, _policy(run.environment)
    if HostRotation(run, plan.host, plan.color).take_out():
        run.note("out of rotation at every load balancer until it is proven", host=plan.host)
    storage, identity = ObjectStorage(environment.object_store), Identity.from_connection(policy.cipher_conn_id)
    manifest = read_manifest(storage, plan.archive, identity)
    # What comes from release storage whole, with its modules.
    fetched_release = f"{environment.application.releases_dir}/{plan.release_id}".lstrip("/")
    wanted = _without(manifest, fetched_release)
    with open_session(environment.host(plan.host), policy.ssh_conn_id) as session:
        archive = HostArchive(environment, policy, session, run_key(run.holder))
        if archive.has_begun() and not _wrong(wanted, archive.look()):
            run.note("its files are in their places already", host=plan.host)
            return
        needed_bytes = 2 * plan.archive.content_bytes + plan.archive.size_bytes
        with fetched(storage, plan.archive) as sealed, identity.opened(sealed) as packed:
            archive.stage(run.fence, packed, needed_bytes)
        wrong = differences(manifest, archive.look_at_staged())
        if wrong:
            raise RestoreRefusedError(
                f"what was unpacked beside on {plan.host} is not what the backup's manifest says: {shown(wrong)}. An "
                "account that is missing there gives another owner: install the packages first. Nothing was put into "
                "its place; the host stays out of rotation"
            )
        besides = [environment.application.state_dir]
        obstacles = in_the_way(manifest, archive.look(), besides)
        left_out = [fetched_release] if fetched_release in manifest.entries else []
        archive.place(run.fence, sorted(obstacles), left_out)
        if obstacles:
            run.note(f"moved aside to {archive.aside}: {shown(obstacles)}", "warning", host=plan.host)
        wrong = _wrong(wanted, archive.look())
        if wrong:
            raise RestoreRefusedError(f"{plan.host} is not as the backup's manifest says: {shown(wrong)}")
    detail = f"{wanted.files} files of {plan.archive.label} are in place, each hash, owner and mode as in the manifest"
    run.note(detail, "success", host=plan.host)
    run.record([GateFact(name=f"files of {plan.host}", verdict="pass", detail=detail, at=datetime.now(UTC))])


def start_and_prove(run: ChangeRun, plan: RestorePlan) -> str:
    """Fetch the release, start the services with the live color, prove it from everywhere, put it into rotation.

    Returns a summary. Raises RestoreRefusedError, and the hosts' errors; the host stays out of rotation then.
    """
    environment, rotation = run.environment, HostRotation(run, plan.host, plan.color)
    policy = environment.policies.blue_green
    timeout_seconds = float(policy.health_timeout_seconds) if policy else HEALTH_TIMEOUT_SECONDS
    if rotation.is_serving():
        # An attempt before this one had proven it, and was killed while it put it back.
        in_rotation = True
        rotation.await_healthy(plan.release_id, timeout_seconds, keep_out=False)
    else:
        in_rotation = rotation.take_out()
        _install_release(run, plan)
        _start(run, plan)
        rotation.await_healthy(plan.release_id, timeout_seconds)
    run.note(f"healthy with {plan.release_id}, by itself and from every load balancer", "success", host=plan.host)
    if in_rotation:
        rotation.put_back()
    where = "in rotation at every load balancer" if in_rotation else "ready, in no load balancer's rotation"
    summary = f"{plan.host} is restored from {plan.archive.label}, runs {plan.release_id} on {plan.color}, {where}"
    run.note(summary, "success")
    run.record([GateFact(name=f"{plan.host} serves", verdict="pass", detail=summary, at=datetime.now(UTC))])
    label = f"{plan.host}/{plan.archive.label}"
    if run.ledger.backup_sets.find(environment.name, BackupKind.APPLICATION, label) is not None:
        run.ledger.backup_sets.mark_restored(environment.name, BackupKind.APPLICATION, label)
    _discard(run, plan)
    return summary


def _start(run: ChangeRun, plan: RestorePlan) -> None:
    environment = run.environment
    with open_session(environment.host(plan.host), environment.ssh_conn_id) as session:
        host = ApplicationHost(environment, session)
        text = render_env_file(environment, plan.color, session.host, plan.release_id, resolve_secrets(environment))
        host.configure(run.fence, plan.color, plan.release_id, text)
        _write_markers(run, plan, host)
        services = services_of(session, environment)
        services.start(Service.PM2, run.fence)
        _await_daemon(host)
        host.start(run.fence, plan.color)
        if services.status(Service.NGINX).state is ServiceState.RUNNING:
            services.reload(Service.NGINX, run.fence)
        else:
            services.start(Service.NGINX, run.fence)
    run.note(f"PM2 with {plan.release_id} on {plan.color}, and Nginx, are started", host=plan.host)


def finish_restore(run: ChangeRun, host: str, failed: list[str], started_at: datetime, summary: str | None) -> str:
    """Record how the run ended, and store its evidence. Returns the summary."""
    text = summary or "planned only, nothing was changed"
    if failed:
        touched = failed[0] not in BEFORE_CHANGE
        left = "it stays out of rotation, users do not meet it" if touched else "nothing was touched"
        text = f"{host} is not restored, {left}: {failed[0]} failed, its log says why"
    verdict = "failed" if failed else "succeeded" if summary else "planned"
    now = datetime.now(UTC)
    outcome = OutcomeFact.model_validate(
        {"outcome": verdict, "summary": text, "failed_task": failed[0] if failed else None, "at": now}
    )
    run.record([outcome])
    store_evidence(run, started_at, is_failed=bool(failed))
    return text


def _proven_archive(run: ChangeRun, host: str, label: str) -> tuple[ArchiveSet, Manifest]:
    """The chosen set, read to its last byte now. A damaged one is marked so; by default the next older one is taken."""
    environment = run.environment
    storage = ObjectStorage(environment.object_store)
    identity = Identity.from_connection(_policy(environment).cipher_conn_id)
    catalog = run.ledger.backup_sets
    known = catalog.present(environment.name, BackupKind.APPLICATION)
    bad = {each.label.removeprefix(f"{host}/") for each in known if each.bad_since is not None}
    sets = stored_sets(storage, environment.name, host)
    while True:
        archive = chosen_set(sets, host, label, bad)
        try:
            manifest = read_manifest(storage, archive, identity)
            wrong = differences(manifest, read_back(storage, archive, identity))
        except (NoDataError, SealError) as error:
            reason = str(error)
        else:
            if not wrong:
                return archive, manifest
            reason = f"its files are not those of its manifest: {shown(wrong)}"
        run.note(f"backup {archive.label} is damaged: {reason}", "error", host=host)
        bad.add(archive.label)
        name = f"{host}/{archive.label}"
        if catalog.find(environment.name, BackupKind.APPLICATION, name) is not None:
            catalog.mark_bad(environment.name, BackupKind.APPLICATION, name, reason, run.holder)


def _live_release(environment: Environment, host: str, color: Color) -> str:
    peers = [each for each in environment.hosts_with_role(Role.APPLICATION) if each.name != host]
    states = on_hosts(peers, environment.ssh_conn_id, lambda session: ApplicationHost(environment, session).state())
    return what_is_live(environment, host, color, states).release_id


def _install_release(run: ChangeRun, plan: RestorePlan) -> None:
    """Fetch what the archive leaves out, by its SHA-256, and compare it with what the archive has of it."""
    environment, policy = run.environment, _policy(run.environment)
    release = _known_release(run, plan.release_id)
    storage = ObjectStorage(environment.object_store)
    identity = Identity.from_connection(policy.cipher_conn_id)
    manifest = read_manifest(storage, plan.archive, identity)
    stamp = (manifest.stamps or {}).get(plan.release_id)
    if stamp is not None and stamp != release.artifact_sha256:
        raise RestoreRefusedError(
            f"{plan.release_id} ran on {plan.host} from the artifact {stamp}, the ledger knows "
            f"{release.artifact_sha256}: two artifacts have one name. The host stays out of rotation; give the run "
            "another release_id"
        )
    build = load_inventory().build
    artifacts = ObjectStorage(environment.object_store if build is None else build.object_store)
    with open_session(environment.host(plan.host), environment.ssh_conn_id) as session:
        source = artifacts.transfer_source(release.artifact_key)
        done = ApplicationHost(environment, session).install(
            run.fence, plan.release_id, release.artifact_sha256, release.size_bytes, source
        )
    run.note(f"{plan.release_id} {done} from release storage, verified by SHA-256", host=plan.host)
    directory = f"{environment.application.releases_dir}/{plan.release_id}/".lstrip("/")
    archived = _contents(manifest, directory)
    if not archived:
        return
    with open_session(environment.host(plan.host), policy.ssh_conn_id) as session:
        archive = HostArchive(environment, policy, session, run_key(run.holder))
        installed = _contents(archive.look(), directory)
    wrong = {name: "another content" for name, digest in archived.items() if installed.get(name) != digest}
    if wrong:
        raise RestoreRefusedError(
            f"{plan.release_id} from release storage is not what the backup has of it: {shown(wrong)}. The host stays "
            "out of rotation. Was it changed by hand on the host? Then give the run another release_id"
        )
    run.note(f"all {len(archived)} files that the backup has of {plan.release_id} are the same", host=plan.host)


def _known_release(run: ChangeRun, release_id: str) -> Release:
    release = run.ledger.releases.find(release_id)
    if release is None:
        raise RestoreRefusedError(
            f"the ledger knows no artifact of {release_id}, and its modules are in no backup: build its version with "
            "build_release, then clear this run. The host gets no traffic until then"
        )
    return release


def _await_daemon(host: ApplicationHost) -> None:
    until = time.monotonic() + DAEMON_DEADLINE_SECONDS
    while host.state().processes is None:
        if time.monotonic() >= until:
            raise OutsideSystemError(
                f"PM2's daemon does not answer {DAEMON_DEADLINE_SECONDS:g} s after its start: see its log",
                host=host.name,
            )
        time.sleep(POLL_SECONDS)


def _write_markers(run: ChangeRun, plan: RestorePlan, host: ApplicationHost) -> None:
    """What the peers know, not what was true when the backup was made."""
    environment = run.environment
    markers = {"current-color": plan.color.value}
    peers = [each for each in environment.hosts_with_role(Role.APPLICATION) if each.name != plan.host]
    if peers:
        with open_session(peers[0], environment.ssh_conn_id) as session:
            peer = ApplicationHost(environment, session)
            for name in ("last-good-release", "good-releases"):
                value = (peer.read_marker(name) or "").strip()
                if value:
                    markers[name] = value
    for name, value in markers.items():
        host.write_marker(run.fence, name, value)


def _discard(run: ChangeRun, plan: RestorePlan) -> None:
    environment, policy = run.environment, _policy(run.environment)
    try:
        with open_session(environment.host(plan.host), policy.ssh_conn_id) as session:
            HostArchive(environment, policy, session, run_key(run.holder)).discard(run.fence)
    except OutsideSystemError as error:
        run.note(f"what was unpacked beside could not be removed: {error}", "warning", host=plan.host)


def _policy(environment: Environment) -> ApplicationBackupPolicy:
    policy = environment.policies.application_backup
    if policy is None:
        raise RestoreRefusedError(f"environment {environment.name} has no policy application_backup")
    return policy


def _without(manifest: Manifest, directory: str) -> Manifest:
    entries = {
        name: entry
        for name, entry in manifest.entries.items()
        if name != directory and not name.startswith(f"{directory}/")
    }
    return Manifest(entries, manifest.missing, manifest.stamps)


def _wrong(wanted: Manifest, found: Manifest) -> dict[str, str]:
    """What of the archive is not as it should be; what else is on the host is no matter."""
    relevant = {name: entry for name, entry in found.entries.items() if name in wanted.entries}
    return differences(wanted, Manifest(relevant))


def _contents(manifest: Manifest, directory: str) -> dict[str, str]:
    return {
        name: entry.sha256
        for name, entry in manifest.entries.items()
        if entry.kind == "file" and name.startswith(directory)
    }
