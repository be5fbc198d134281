"""What a disaster has taken, what would be lost, and which recovery that calls for. Pure rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from sebenza_ops.recovery.switch_plan import Loss


class DisasterType(StrEnum):
    """How the other site is brought to serve (manual, Disaster Recovery Plan)."""

    FAILOVER = "failover"
    """Its standby becomes the primary."""
    FULL = "full"
    """All of the database is restored there from the repository."""
    PARTIAL = "partial"
    """The declared critical tables and services first, the rest later."""


class Verdict(StrEnum):
    """What all places together say of a component."""

    UP = "up"
    """Every place that is not cut off itself reaches it."""
    CUT_OFF = "cut off"
    """Some places reach it, others do not."""
    LOST = "lost"
    """No place reaches it."""
    UNKNOWN = "unknown"
    """Nobody could look: no data is not good news."""


class Component(BaseModel):
    """A port of a host, and what answers there."""

    model_config = ConfigDict(frozen=True)

    site: str
    host: str
    what: str
    address: str
    port: int

    @property
    def words(self) -> str:
        """In words."""
        return f"{self.what} on {self.host}"


class Sighting(BaseModel):
    """What one place found of one component; `reached` is None when the place could not look."""

    model_config = ConfigDict(frozen=True)

    place: str
    component: Component
    reached: bool | None


class ComponentVerdict(BaseModel):
    """A component, what is said of it, and who reaches it and who does not."""

    model_config = ConfigDict(frozen=True)

    component: Component
    verdict: Verdict
    reached_by: tuple[str, ...] = ()
    missed_by: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """In words."""
        text = f"{self.component.words}: {self.verdict}"
        if self.verdict is Verdict.CUT_OFF:
            text += f" (reached from {', '.join(self.reached_by)}; not from {', '.join(self.missed_by)})"
        return text


def isolated_places(sightings: Sequence[Sighting]) -> frozenset[str]:
    """Places that reach nothing at all: more likely they are cut off than everything is gone.

    When no place reaches anything, none counts as isolated.
    """
    reach = {place: False for place in {each.place for each in sightings}}
    for each in sightings:
        reach[each.place] = reach[each.place] or bool(each.reached)
    isolated = frozenset(place for place, found in reach.items() if not found)
    return isolated if len(isolated) < len(reach) else frozenset()


def judge_components(sightings: Sequence[Sighting]) -> list[ComponentVerdict]:
    """What all places together say of each component, in the order in which it was looked at."""
    isolated = isolated_places(sightings)
    seen: dict[Component, list[Sighting]] = {}
    for each in sightings:
        seen.setdefault(each.component, []).append(each)
    judged = []
    for component, looks in seen.items():
        counted = [each for each in looks if each.place not in isolated and each.reached is not None]
        reached = tuple(each.place for each in counted if each.reached)
        missed = tuple(each.place for each in counted if not each.reached)
        verdict = Verdict.UNKNOWN
        if counted:
            verdict = Verdict.LOST if not reached else Verdict.CUT_OFF if missed else Verdict.UP
        judged.append(ComponentVerdict(component=component, verdict=verdict, reached_by=reached, missed_by=missed))
    return judged


def judge_site(site: str, components: Sequence[ComponentVerdict]) -> Verdict:
    """A site is lost when all of it is, and unknown when nobody could look at any of it; otherwise up or cut off."""
    verdicts = {each.verdict for each in components if each.component.site == site}
    if not verdicts or verdicts == {Verdict.UNKNOWN}:
        return Verdict.UNKNOWN
    for alone in (Verdict.LOST, Verdict.UP):
        if verdicts - {Verdict.UNKNOWN} == {alone}:
            return alone
    return Verdict.CUT_OFF


class Findings(BaseModel):
    """What the recommendation is made from.

    Attributes:
        primary_answers: A server of the serving site takes writes, by its own word or by the endpoint's.
        replica_answers: A replica of the serving site could take over there.
        standby_problem: Why the other site's standby can't take over; empty when it can.
        failover_loss: What promoting it would lose.
        repository_problem: Why the other site's copy of the repository can't be restored; empty when it can.
        repository_loss: What a restore from it would lose.
        partial_problem: Why the critical tables can't be restored first; empty when they can.
        partial_loss: What that would lose.
        restore_seconds: How long a restore of all of it is expected to take; None when it was never measured.
        critical_tables: The declared critical tables.
        rto_seconds: The objective.
    """

    model_config = ConfigDict(frozen=True)

    site: Verdict
    primary_answers: bool = False
    replica_answers: bool = False
    standby_problem: str = ""
    failover_loss: Loss = Loss()
    repository_problem: str = ""
    repository_loss: Loss = Loss()
    partial_problem: str = ""
    partial_loss: Loss = Loss()
    restore_seconds: float | None = None
    critical_tables: tuple[str, ...] = ()
    rto_seconds: float = 4 * 3600


class Recommendation(BaseModel):
    """What is recommended, and why. `kind` is None when no disaster recovery is."""

    model_config = ConfigDict(frozen=True)

    kind: DisasterType | None
    why: tuple[str, ...]

    @property
    def words(self) -> str:
        """In words."""
        what = f"`{self.kind}`" if self.kind is not None else "no disaster recovery"
        return f"Recommended: **{what}**. {' '.join(self.why)}"


def recommend(found: Findings) -> Recommendation:
    """Which recovery the findings call for: the one that loses least, of those that are possible in time."""
    if found.primary_answers:
        return Recommendation(
            kind=None,
            why=("The primary takes writes: a recovery would lose what it has; see what else is wrong with the site.",),
        )
    if found.site is not Verdict.LOST and found.replica_answers:
        return Recommendation(
            kind=None,
            why=(
                "The site's own replica answers: `switch_database_primary` with the kind `unplanned` loses less and "
                "moves no user to another site.",
            ),
        )
    why = [f"The primary site is {found.site}."]
    if not found.standby_problem:
        why.append(f"The standby can take over; it lacks {found.failover_loss.words}.")
        return Recommendation(kind=DisasterType.FAILOVER, why=tuple(why))
    why.append(f"The standby can't take over: {found.standby_problem}.")
    if found.repository_problem:
        why.append(
            f"The copy of the repository can't be restored either: {found.repository_problem}. Mend one of both first."
        )
        return Recommendation(kind=None, why=tuple(why))
    why.append(f"A restore from the repository lacks {found.repository_loss.words}.")
    late = found.restore_seconds is not None and found.restore_seconds > found.rto_seconds
    if late and found.critical_tables:
        takes = (
            f"All of it takes about {found.restore_seconds:.0f} s, longer than the objective of {found.rto_seconds:g} s"
        )
        if not found.partial_problem:
            why.append(
                f"{takes}: the critical tables first ({', '.join(found.critical_tables)}), which lacks "
                f"{found.partial_loss.words}."
            )
            return Recommendation(kind=DisasterType.PARTIAL, why=tuple(why))
        why.append(f"{takes}, but the critical tables can't come first: {found.partial_problem}.")
        return Recommendation(kind=DisasterType.FULL, why=tuple(why))
    if found.restore_seconds is not None:
        why.append(f"It takes about {found.restore_seconds:.0f} s.")
    return Recommendation(kind=DisasterType.FULL, why=tuple(why))


class Stage(StrEnum):
    """How far a recovery has come, by the estate; each includes those before it."""

    DECLARED = "declared"
    """Nothing has been changed."""
    FENCED = "fenced"
    """The old primary takes no writes, as far as it can be reached."""
    WRITABLE = "writable"
    """The other site's database takes writes."""
    SERVING = "serving"
    """Its application answers with the right release, on that database."""
    LED = "led"
    """Every resolver that was asked leads users there."""


ORDER = tuple(Stage)


class Standing(BaseModel):
    """What a look at the estate gives; None is what could not be seen, which counts as not done."""

    model_config = ConfigDict(frozen=True)

    is_fenced: bool | None = None
    is_writable: bool | None = None
    is_serving: bool | None = None
    is_led: bool | None = None


def stage_of_recovery(standing: Standing) -> Stage:
    """The stage that a run goes on from; a retry repeats whatever was not seen done."""
    stage = Stage.DECLARED
    for reached, done in zip(
        ORDER[1:], (standing.is_fenced, standing.is_writable, standing.is_serving, standing.is_led), strict=True
    ):
        # A promoted standby is not taken back because a fence can't be seen any more.
        if done or (reached is Stage.FENCED and standing.is_writable):
            stage = reached
        else:
            break
    return stage


def why_not_promotable(
    *, system_identifier: str, expected_identifier: str, lag_seconds: float | None, lag_limit_seconds: float
) -> list[str]:
    """What should keep people from promoting a standby that answers; empty when nothing does.

    Args:
        system_identifier: Of the standby's cluster.
        expected_identifier: Of the primary's, as it was known last; empty when nobody knows it.
        lag_seconds: From its last replayed commit to when the primary was last seen; None when that can't be told.
        lag_limit_seconds: The recovery point objective.
    """
    problems = []
    if expected_identifier and system_identifier != expected_identifier:
        problems.append(f"it is of the cluster {system_identifier}, not of {expected_identifier}")
    if lag_seconds is None:
        problems.append("how far it is behind can't be told")
    elif lag_seconds > lag_limit_seconds:
        problems.append(f"it is {lag_seconds:.0f} s behind, the recovery point objective is {lag_limit_seconds:g} s")
    return problems


def lost_words(components: Sequence[ComponentVerdict]) -> str:
    """The components that are not up, site by site, for people."""
    sites: dict[str, list[str]] = {}
    for each in components:
        if each.verdict is not Verdict.UP:
            sites.setdefault(each.component.site, []).append(each.words)
    if not sites:
        return "everything answers from every place"
    return "\n".join(f"- {site}: {'; '.join(found)}" for site, found in sites.items())


def up_by_site(components: Sequence[ComponentVerdict]) -> Mapping[str, str]:
    """Of each site, how many of its components are up."""
    sites = dict.fromkeys(each.component.site for each in components)
    counts = {}
    for site in sites:
        own = [each for each in components if each.component.site == site]
        counts[site] = f"{sum(each.verdict is Verdict.UP for each in own)} of {len(own)} up"
    return counts
