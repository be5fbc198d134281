"""Gathering what the approval of a deployment shows, and checking afterwards that it is still so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sebenza_ops.changes import ChangeRun
from sebenza_ops.deployment.approval import briefing, moved_since
from sebenza_ops.deployment.attested import AttestationMissing, AttestationRefused, read_attestation
from sebenza_ops.deployment.plan import DeploymentPlan
from sebenza_ops.environments.inventory import load_inventory
from sebenza_ops.environments.models import Environment
from sebenza_ops.evidence.facts import GateFact, load, utc_now
from sebenza_ops.systems.build_host import BuildHost
from sebenza_ops.systems.errors import OutsideSystemError
from sebenza_ops.systems.ssh import open_session


class ApprovalOutdatedError(Exception):
    """What was approved is no longer what would be done; nothing was changed."""


def brief(run: ChangeRun, plan: DeploymentPlan, gates: Sequence[str], first: Sequence[str]) -> dict[str, Any]:
    """The briefing in Markdown (`text`), the commit (`sha`), and who may not approve (`excluded`: name → what)."""
    attested = attested_people(run.environment, plan)
    excluded = excluded_people(run, attested)
    text = briefing(
        plan,
        requested_by=run.holder.actor,
        attested_people=attested,
        required_gates=gates,
        gates=load(run.ledger, run.holder.dag_id, run.holder.run_id).gates,
        commits=_commits(run, plan),
        first="\n".join(f"- {line}" for line in first) if first else None,
        excluded=excluded,
    )
    return {"text": text, "sha": plan.release.sha, "excluded": excluded}


def attested_people(environment: Environment, plan: DeploymentPlan) -> dict[str, str]:
    """What the pipeline says of people, role → name; empty without an attestation that counts.

    Raises OutsideSystemError when that can't be told: nobody may approve then.
    """
    policy = environment.policies.deployment
    if policy is None:
        return {}
    try:
        found = read_attestation(environment, plan.release, policy.attestation_conn_id)
    except (AttestationMissing, AttestationRefused):
        return {}
    people = {"author": found.author, "requester of the pipeline": found.requested_by}
    if not [reviewer for reviewer in found.reviewers if reviewer != found.author]:
        people["committer"] = found.committer
    return {role: name for role, name in people.items() if name}


def excluded_people(run: ChangeRun, attested: Mapping[str, str]) -> dict[str, str]:
    """Who may not approve: the requester, and the people that the attestation names, as the policy says."""
    policy = run.environment.policies.approvals
    if policy is None:
        return {}
    excluded: dict[str, str] = {}
    if policy.exclude_author:
        excluded |= {name: role for role, name in attested.items() if role != "requester of the pipeline"}
    if policy.exclude_requester:
        excluded |= {name: role for role, name in attested.items() if role == "requester of the pipeline"}
        excluded[run.holder.actor] = "requester"
    return excluded


def check_still_as_approved(run: ChangeRun, plan: DeploymentPlan, approved: DeploymentPlan, version: str) -> None:
    """Compare the plan made under the lease with the one that was approved. Raises ApprovalOutdatedError."""
    from sebenza_ops.deployment.gate_checks import GateContext, check_gate

    build, policy = load_inventory().build, run.environment.policies.deployment
    sha = plan.release.sha
    if build is not None:
        with open_session(build.host, build.ssh_conn_id) as session:
            sha, _ = BuildHost(build, session).resolve(version)
    moved = moved_since(approved, plan, sha)
    if moved is None and policy is not None and "rollback_plan" in policy.gates:
        result = check_gate("rollback_plan", GateContext(run, plan, policy))
        run.record([GateFact(name="rollback_plan", verdict=result.verdict, detail=result.detail, at=utc_now())])
        if result.verdict != "pass":
            moved = f"there is no way back any more: {result.detail}"
    if moved is not None:
        raise ApprovalOutdatedError(f"not as it was approved: {moved}. Nothing was changed. Start a new run.")


def _commits(run: ChangeRun, plan: DeploymentPlan) -> list[str]:
    build = load_inventory().build
    former = run.ledger.releases.find(plan.from_release) if plan.from_release else None
    if build is None or former is None:
        return []
    try:
        with open_session(build.host, build.ssh_conn_id) as session:
            return BuildHost(build, session).commits_between(former.sha, plan.release.sha)
    except OutsideSystemError as error:
        return [f"not known: {error}"]
