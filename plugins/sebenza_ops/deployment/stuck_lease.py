"""A lease whose run does not go on: what its holder had done, and how it is handed back.

Handing back ends the lease and tells every host a higher fencing token, so that the former holder can't change anything
when it wakes up after all. It does not supersede that run: cleared, it goes on from what is live.
"""

from __future__ import annotations

from collections.abc import Sequence

from sebenza_ops.changes import ChangeRefusedError, ChangeRun
from sebenza_ops.deployment.finish import live_traffic
from sebenza_ops.deployment.progress import Phase
from sebenza_ops.evidence.facts import TimelineEntry, load
from sebenza_ops.ledger import Deployment, Lease, LeaseKind, Ledger
from sebenza_ops.systems.errors import OutsideSystemError
from sebenza_ops.systems.fencing import changed_hosts, raise_tokens

TIMELINE_SHOWN = 8
HAND_BACK_TTL_SECONDS = 120.0


class LeaseChangedError(Exception):
    """The lease is not the one that was shown any more; nothing was changed."""


def describe_lease(lease: Lease, deployment: Deployment | None, timeline: Sequence[TimelineEntry], live: str) -> str:
    """What a person needs to know before the lease is taken from its holder, in Markdown.

    Args:
        lease: The lease.
        deployment: The ledger's record of the holder, if it deploys.
        timeline: What the holder has noted, the oldest first.
        live: Where traffic goes now, in words.
    """
    lines = [
        f"**{lease.environment}** is held by `{lease.holder.dag_id}`, run `{lease.holder.run_id}`, started by "
        f"**{lease.holder.actor}**, for: {lease.purpose}.",
        f"Since {_utc(lease.acquired_at)}, until {_utc(lease.expires_at)} unless renewed; fencing token {lease.token}.",
        f"Traffic now: {live}.",
    ]
    if deployment is not None:
        phase = deployment.progress.get("phase")
        lines.append(
            f"It deploys {deployment.release_id or deployment.requested_version} from "
            f"{deployment.from_color or '?'} to {deployment.to_color or '?'}; its traffic: {phase or 'not switched'}."
        )
        if phase and Phase(phase).is_unproven:
            lines.append(
                "**Its release may have traffic and has not passed.** Afterwards, clear that run (it goes on, or takes "
                "the release back) or start a rollback."
            )
    shown = [f"- {_utc(entry.at)} {f'{entry.host}: ' if entry.host else ''}{entry.text}" for entry in timeline]
    lines.append("What it did last:\n\n" + ("\n".join(shown[-TIMELINE_SHOWN:]) or "- nothing that it noted"))
    return "\n\n".join(lines)


def show_lease(run: ChangeRun) -> tuple[Lease, str] | None:
    """The environment's lease and its description, or None when nobody holds it."""
    ledger, name = run.ledger, run.environment.name
    lease = ledger.leases.current(name)
    if lease is None:
        return None
    deployment = ledger.deployments.find(lease.holder.dag_id, lease.holder.run_id)
    timeline = load(ledger, lease.holder.dag_id, lease.holder.run_id).timeline
    return lease, describe_lease(lease, deployment, timeline, live_traffic(run.environment).text)


def hand_back(run: ChangeRun, token: int, reason: str, approved_by: str) -> str:
    """End the lease with this token, and make every host refuse its holder. Returns what was done, in words.

    Raises LeaseChangedError when the lease is another one than was shown.
    """
    ledger, name = run.ledger, run.environment.name
    lease = ledger.leases.current(name)
    if lease is not None and not lease.holder.is_run(run.holder):
        _end_lease(ledger, lease, token, f"handed back by {approved_by}: {reason}", approved_by)
    try:
        run.acquire(
            f"refuse what still comes under token {token}", HAND_BACK_TTL_SECONDS, token, LeaseKind.HOUSEKEEPING
        )
    except ChangeRefusedError as error:
        # The next run has the environment already, with a higher token of its own.
        return f"the lease with token {token} was handed back; {error}"
    try:
        answers = raise_tokens(run.environment, changed_hosts(run.environment), run.fence)
    finally:
        run.release("the lease was handed back")
    deaf = [str(answer) for answer in answers.values() if isinstance(answer, OutsideSystemError)]
    told = f"the lease of {name} is free; {len(answers) - len(deaf)} of {len(answers)} hosts refuse token {token} now"
    return told + (f". NOT told, its holder may still change them: {'; '.join(deaf)}" if deaf else "")


def _end_lease(ledger: Ledger, lease: Lease, token: int, reason: str, actor: str) -> None:
    if lease.token != token:
        raise LeaseChangedError(
            f"the lease of {lease.environment} has fencing token {lease.token} now, shown was {token}: its holder "
            f"({lease.holder}) goes on, or it is another one. Nothing was changed; look again with a new run."
        )
    ledger.leases.release(lease.environment, token, reason, actor)


def _utc(at: object) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
