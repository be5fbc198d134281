"""What a disaster recovery does: chosen once, shown to people, and kept when a task is tried again."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict

from sebenza_ops.recovery.disaster_repository import RestoreSource
from sebenza_ops.recovery.disaster_rules import (
    ComponentVerdict,
    DisasterType,
    Recommendation,
    Verdict,
    lost_words,
    up_by_site,
)
from sebenza_ops.recovery.switch_plan import Loss


class DisasterRefusedError(Exception):
    """The site can't be recovered as asked; the message says why, and what is changed."""


class DatabaseTarget(BaseModel):
    """The standby that takes over, and the server in whose place.

    Attributes:
        old: The host that is the primary, or was.
        old_hosts: All database hosts of the lost site.
        new: The host that becomes the primary.
        timeline: The standby's history; the new primary's is higher.
        lsn: What the standby had replayed when it was planned.
        last_kept_at: The last commit that it had replayed then.
    """

    model_config = ConfigDict(frozen=True)

    old: str
    old_hosts: tuple[str, ...]
    new: str
    system_identifier: str
    timeline: int
    lsn: int
    last_kept_at: float | None = None
    old_words: str = ""
    new_words: str = ""


class DisasterPlan(BaseModel):
    """One recovery of one environment.

    Attributes:
        from_site: The site that is lost.
        to_site: The site that takes over.
        release_id: What the application runs there; empty while that is chosen when it starts.
        loss: What would be lost.
        components: What was found of every component.
        site: What the lost site is.
        restore: What is restored; None for a failover.
        unfenceable: Database hosts of the lost site that can't be reached, so that they can't be stopped there.
        declared_at: When the run began, in seconds since the epoch.
        last_good_at: When the service was last seen well; None when nobody saw it.
    """

    model_config = ConfigDict(frozen=True)

    environment: str
    kind: DisasterType
    from_site: str
    to_site: str
    database: DatabaseTarget
    loss: Loss
    site: Verdict
    components: tuple[ComponentVerdict, ...] = ()
    recommendation: Recommendation
    restore: RestoreSource | None = None
    release_id: str = ""
    release_basis: str = ""
    unfenceable: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    declared_at: float
    last_good_at: float | None = None
    last_good_basis: str = ""

    def text(self, reason: str, requested_by: str, excluded: Mapping[str, str]) -> str:
        """Everything that is needed to decide, in Markdown."""
        target = self.database
        parts = [
            f"**{self.environment}** is recovered at the site **{self.to_site}**: {self._what()}",
            f"The site {self.from_site} is **{self.site}**. "
            + "; ".join(f"{site}: {count}" for site, count in up_by_site(self.components).items())
            + f".\n\n{lost_words(self.components)}",
            f"- {target.old}: {target.old_words}\n- {target.new}: {target.new_words}",
            f"Lost: **{self.loss.words}**.",
            *([self._restored()] if self.restore is not None else []),
            self.recommendation.words,
            self._fencing(),
        ]
        if self.release_id:
            parts.append(f"The application will run {self.release_id} ({self.release_basis}).")
        if self.last_good_at is not None:
            at = datetime.fromtimestamp(self.last_good_at, UTC).isoformat(timespec="seconds")
            parts.append(f"Last seen well: {at} ({self.last_good_basis}).")
        if self.warnings:
            parts += ["### Warnings", "\n".join(f"- {line}" for line in self.warnings)]
        parts.append(f"Requested by {requested_by}: {' '.join(reason.split())}")
        if excluded:
            parts.append("May not approve: " + ", ".join(f"{name} ({role})" for name, role in excluded.items()) + ".")
        return "\n\n".join(parts)

    def _what(self) -> str:
        new, old = self.database.new, self.database.old
        return {
            DisasterType.FAILOVER: f"{new}, its standby, becomes the primary in place of {old}.",
            DisasterType.FULL: f"all of the database is restored on {new} from that site's copy of the repository.",
            DisasterType.PARTIAL: f"the critical tables are restored on {new} first, the rest later.",
        }[self.kind]

    def _restored(self) -> str:
        source = self.restore
        assert source is not None
        if self.kind is DisasterType.PARTIAL:
            return (
                f"Users are served on the critical tables from the dump {source.dump}, in a cluster made of the same "
                "set; the rest of that dump follows while they work. Until then pages that need the rest answer errors "
                "and no row that it refers to can be deleted. What was written after the dump is in the archived WAL "
                "still: restore it beside afterwards to take over by hand what must not be missed."
            )
        compared = (
            f"compared with {source.manifest} on the way" if source.manifest else "NOT compared: it has no manifest"
        )
        return (
            f"From the set {source.label}, {compared}, then with all archived WAL of timeline {source.timeline} up to "
            f"{source.end_lsn}. What is in the data directory now is moved aside and kept."
        )

    def _fencing(self) -> str:
        if not self.unfenceable:
            return (
                f"Before anything else the database servers of {self.from_site} are stopped and kept from starting, "
                "and its endpoint gives them no client."
            )
        hosts = ", ".join(self.unfenceable)
        return (
            f"**{hosts} can't be reached, so nothing can be stopped there.** What protects the data then: the users' "
            "names lead elsewhere, and a database server that starts again asks the other site first "
            "(database-guard.sh): it comes up as a replica. What does not: a server that was never stopped and is only "
            "out of reach goes on taking the writes of whoever still gets to it, and those will be lost. Approving "
            "accepts this; say in the reason how you know that the site is down."
        )


def conclusion(plan: DisasterPlan, *, served: bool, failed: str, measured: str) -> str:
    """What a run's summary says."""
    name, site = plan.environment, plan.to_site
    if served and not failed:
        return f"{name} is served from {site} ({plan.kind}); lost: {plan.loss.words}. {measured}"
    if served:
        return (
            f"{name} is served from {site}, but {failed} failed: its log says why, and clearing it goes on. {measured}"
        )
    if failed:
        return f"{name} is NOT recovered: {failed} failed. Its log says what state things are in; clearing it goes on"
    return f"{name}: planned only, nothing was changed; lost would be: {plan.loss.words}"


def failback_conclusion(plan: DisasterPlan, *, served: bool, moved: bool, failed: str) -> str:
    """What a failback's summary says."""
    name, where = plan.environment, plan.to_site if served else plan.from_site
    if served and not failed:
        return f"{name} is served from {where} again, nothing is lost"
    if moved and not served:
        return f"{name}: {plan.database.new} is the primary, but users are NOT led there: {failed} failed; clear it"
    if failed:
        return f"{name} is served from {where}; {failed} failed: see its log"
    return f"{name}: planned only, nothing was changed"
