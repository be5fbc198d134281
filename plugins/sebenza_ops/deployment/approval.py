"""The approval of a deployment: what the person who decides is shown, and who may decide. Pure rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sebenza_ops.deployment.gates import gates_table
from sebenza_ops.deployment.plan import DeploymentPlan
from sebenza_ops.evidence.facts import GateFact

# Enough to recognize a release by; a longer list is in the repository.
MAXIMUM_COMMITS = 30


def moved_since(approved: DeploymentPlan, now: DeploymentPlan, sha_of_version: str) -> str | None:
    """What is no longer as it was when the approval was asked for, or None.

    Args:
        approved: The plan that was shown.
        now: The plan made after the answer, under the lease.
        sha_of_version: The commit that the requested version names now.
    """
    if sha_of_version != approved.release.sha:
        return (
            f"the version named commit {approved.release.sha[:12]} when it was approved, "
            f"and names {sha_of_version[:12]} now"
        )
    if now.release.sha256 != approved.release.sha256:
        return "the artifact is another one than the approved"
    if now.from_release != approved.from_release:
        return f"{approved.from_release} was live when it was approved, and {now.from_release} is now"
    if (now.from_color, now.to_color) != (approved.from_color, approved.to_color):
        return f"{approved.from_color} was live when it was approved, and {now.from_color} is now"
    return None


def briefing(
    plan: DeploymentPlan,
    *,
    requested_by: str,
    attested_people: Mapping[str, str],
    required_gates: Sequence[str],
    gates: Iterable[GateFact],
    commits: Sequence[str],
    first: str | None,
    excluded: Mapping[str, str],
) -> str:
    """Everything that is needed to decide, in Markdown.

    Args:
        plan: What would be done.
        requested_by: Who started the run.
        attested_people: What the pipeline says of people: role → name.
        required_gates: The policy's gates.
        gates: Their verdicts.
        commits: The commits between what is live and this release, one line each.
        first: What the environment that got the release first has shown; None without one.
        excluded: People who may not approve, and why.
    """
    release = plan.release
    known = set(required_gates)
    parts = [
        f"**{release.release_id}** to **{plan.environment}**, in place of {plan.from_release or 'nothing'}.",
        f"Commit `{release.sha}`. The answer is for this commit alone. Requested by {requested_by}"
        + "".join(f"; {role} {name}" for role, name in attested_people.items())
        + ".",
    ]
    if known:
        parts += ["### Gates", gates_table(required_gates, gates)]
    parts += ["### Changes", _listed(commits) or "No list of commits: the repository could not be asked."]
    migrations = [f"{one.name} ({one.phase})" for one in release.migrations]
    parts += ["### Migrations of this release", ", ".join(migrations) or "none"]
    if first is not None:
        parts += ["### Where it ran first", first]
    back = f"{plan.way_back[0].upper()}{plan.way_back[1:]} by itself when a trigger fires"
    parts += ["### Way back", f"{back}; later with `rollback.{plan.environment}`."]
    parts += ["### Plan", _listed([f"{step.host}: {step.action}" for step in plan.steps])]
    if plan.warnings:
        parts += ["### Warnings", _listed(plan.warnings)]
    if excluded:
        parts.append("May not approve: " + ", ".join(f"{name} ({what})" for name, what in excluded.items()) + ".")
    return "\n\n".join(parts)


def _listed(lines: Sequence[str]) -> str:
    # As code: a commit's subject is anybody's text.
    shown = [f"    {' '.join(line.split())}" for line in lines[:MAXIMUM_COMMITS]]
    if len(lines) > MAXIMUM_COMMITS:
        shown.append(f"    and {len(lines) - MAXIMUM_COMMITS} more")
    return "\n".join(shown)
