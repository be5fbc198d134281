"""What each gate looks at. Every check returns a verdict; what can't be asked is no data, never a pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sebenza_ops.changes import ChangeRun
from sebenza_ops.deployment.attestation import AttestedGateName
from sebenza_ops.deployment.attested import AttestationMissing, AttestationRefused, read_attestation
from sebenza_ops.deployment.audit_report import judge_audit
from sebenza_ops.deployment.builds import release_storage
from sebenza_ops.deployment.gates import GateResult
from sebenza_ops.deployment.installed import InstalledReleases
from sebenza_ops.deployment.migration_test import test_migrations
from sebenza_ops.deployment.migrations import read_schema
from sebenza_ops.deployment.plan import DeploymentPlan
from sebenza_ops.deployment.release import Release, artifact_key
from sebenza_ops.deployment.schema_gate import is_compatible
from sebenza_ops.environments.env_file import EnvFileError, compare_settings, render_env_file
from sebenza_ops.environments.inventory import load_inventory
from sebenza_ops.environments.models import DeploymentPolicy, Environment, Role
from sebenza_ops.evidence.facts import GateVerdict
from sebenza_ops.systems.application_hosts import ApplicationHost
from sebenza_ops.systems.application_secrets import resolve_secrets
from sebenza_ops.systems.build_host import BuildHost
from sebenza_ops.systems.errors import OutsideSystemError
from sebenza_ops.systems.ssh import HostSession, on_hosts, open_session

DELIVERY_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class GateContext:
    """What a gate is asked about: the run, the plan that is to be carried out, and the policy."""

    run: ChangeRun
    plan: DeploymentPlan
    policy: DeploymentPolicy
    link: str | None = None

    @property
    def environment(self) -> Environment:
        """The environment that is to be changed."""
        return self.run.environment

    @property
    def release(self) -> Release:
        """The release that is to be deployed."""
        return self.plan.release


def check_gate(name: str, context: GateContext) -> GateResult:
    """A gate's verdict. An outside system that does not answer, or answers nonsense, is no data."""
    try:
        return CHECKS[name](context)
    except (OutsideSystemError, EnvFileError) as error:
        return GateResult("no_data", str(error))


def _attested(name: AttestedGateName) -> Callable[[GateContext], GateResult]:
    def check(context: GateContext) -> GateResult:
        try:
            attestation = read_attestation(context.environment, context.release, context.policy.attestation_conn_id)
        except AttestationMissing as error:
            return GateResult("no_data", str(error))
        except AttestationRefused as error:
            return GateResult("fail", str(error))
        gate = attestation.gates.get(name)
        if gate is None:
            return GateResult("no_data", f"the pipeline's attestation says nothing of {name.replace('_', ' ')}")
        others = sorted({reviewer for reviewer in attestation.reviewers if reviewer != attestation.author})
        if name == "review_approved" and gate.verdict == "pass" and not others:
            return GateResult("fail", f"nobody but the author ({attestation.author}) has reviewed it", gate.url)
        by = f", by {', '.join(others)}" if name == "review_approved" and others else ""
        verdict: GateVerdict = gate.verdict
        return GateResult(verdict, f"{gate.detail or 'attested'}{by}", gate.url or attestation.pipeline.url)

    return check


def security_scan(context: GateContext) -> GateResult:
    """Npm's own audit of the release's dependencies; where the registry has none, what the pipeline attests."""
    build = load_inventory().build
    if build is None:
        return GateResult("no_data", "the inventory describes no build host to scan on")
    with open_session(build.host, build.ssh_conn_id) as session:
        text = BuildHost(build, session).audit(context.release.sha)
    result = judge_audit(text, context.policy.audit_level)
    if result.verdict != "no_data":
        return result
    attested = _attested("security_scan")(context)
    if attested.verdict == "no_data":
        return GateResult("no_data", f"{result.detail}; {attested.detail}")
    return GateResult(attested.verdict, f"attested by the pipeline: {attested.detail}", attested.link)


def migrations_tested(context: GateContext) -> GateResult:
    """The release's migrations on a copy of the database of the environment that gets it first."""
    first = load_inventory().environments.get(context.policy.first_in or context.environment.name)
    if first is None:
        return GateResult("no_data", f"the inventory has no environment {context.policy.first_in} to test in")
    tested = test_migrations(first, context.release)
    if tested.problem:
        return GateResult(tested.verdict, tested.problem)
    shown = [
        f"{one.number} {one.name}: {one.seconds:.2f} s"
        + (f", blocks with {', '.join(one.blocking_locks)}" if one.blocking_locks else "")
        for one in tested.migrations
    ]
    done = "; ".join(shown) or "no migration is pending"
    return GateResult(tested.verdict, f"on a copy of {first.name}'s database in {tested.seconds:.1f} s: {done}")


def configuration_verified(context: GateContext) -> GateResult:
    """What would be written on each host is rendered and read back, and compared with what is live there."""
    environment, plan = context.environment, context.plan
    secrets = resolve_secrets(environment)

    def compare(session: HostSession) -> str:
        host = ApplicationHost(environment, session)
        wanted = render_env_file(environment, plan.to_color, session.host, plan.release.release_id, secrets)
        live = render_env_file(environment, plan.from_color, session.host, plan.from_release or "none", secrets)
        actual = host.read_file(host.env_file(plan.from_color))
        compare_settings(wanted, wanted)
        if actual is None:
            return "nothing was deployed there yet"
        drifts = compare_settings(live, actual)
        return "; ".join(str(drift) for drift in drifts) or "as it is now"

    hosts = environment.hosts_with_role(Role.APPLICATION)
    answers = on_hosts(hosts, environment.ssh_conn_id, compare)
    failed = [str(answer) for answer in answers.values() if isinstance(answer, OutsideSystemError)]
    if failed:
        return GateResult("no_data", "; ".join(failed))
    changes = {name: answer for name, answer in answers.items() if answer != "as it is now"}
    if not changes:
        return GateResult("pass", f"valid on {', '.join(answers)}; it stays as it is")
    shown = "; ".join(f"{name}: {answer}" for name, answer in changes.items())
    return GateResult("pass", f"valid on {', '.join(answers)}; the deployment changes {shown}")


def rollback_plan(context: GateContext) -> GateResult:
    """The release that is live now can be gone back to: it exists, verifies, and fits the schema."""
    name = context.plan.from_release
    if name is None:
        return GateResult("fail", "no release runs now: there is nothing to go back to")
    run = context.run
    if run.ledger.releases.bad(context.environment.name, name) is not None:
        return GateResult("fail", f"{name}, which runs now, is marked bad: there is nothing good to go back to")
    former, where = _kept_release(context, name)
    if former is None:
        return GateResult("fail", where)
    verdict = is_compatible(former, read_schema(context.environment))
    if not verdict.possible:
        return GateResult("fail", verdict.reason)
    contract = [migration.name for migration in context.release.migrations if migration.phase == "contract"]
    later = f"; contract migrations ({', '.join(contract)}) wait for migrate_contract" if contract else ""
    return GateResult("pass", f"back to {name}: {where}, fits the schema{later}")


def _kept_release(context: GateContext, name: str) -> tuple[Release | None, str]:
    """A release that can be started again, and where it is; or None, and what is wrong with it."""
    environment, record = context.environment, context.run.ledger.releases.find(name)
    if record is not None:
        stored = Release.model_validate(record.manifest)
        size = release_storage(environment).size_bytes(artifact_key(stored.sha))
        if size == stored.size_bytes:
            return stored, "stored and intact"
        found = "is missing" if size is None else f"has {size} bytes in place of {stored.size_bytes}"
        return None, f"the artifact of {name} {found} in object storage"
    # It came here before these procedures did: what is on the hosts can be started again all the same.
    states = on_hosts(
        environment.hosts_with_role(Role.APPLICATION),
        environment.ssh_conn_id,
        lambda session: ApplicationHost(environment, session).state(),
    )
    lacking = [
        host for host, state in states.items() if isinstance(state, OutsideSystemError) or name not in state.releases
    ]
    installed = InstalledReleases(environment, states).find(name)
    if installed is None or lacking:
        on = f" (not on {', '.join(lacking)})" if lacking else ""
        return None, f"neither the ledger nor every host has {name}, which runs now{on}: build it, so that it is kept"
    return installed, "installed on every host"


def stakeholders_notified(context: GateContext) -> GateResult:
    """A notice of what is coming goes out now, to everybody who wants to know; queued is not delivered."""
    from sebenza_ops.notify.messages import NOTICE
    from sebenza_ops.notify.outbox import deliver_pending, queue_notice
    from sebenza_ops.notify.runs import Run

    holder, run = context.run.holder, context.run
    told = Run(holder.dag_id, holder.run_id, run.clear_number, holder.actor, run.conf)
    text = (
        f"{context.release.release_id} is about to be deployed to {context.environment.name}, in place of "
        f"{context.plan.from_release or 'nothing'}; requested by {holder.actor}."
    )
    queue_notice(run.ledger, told, text)
    until = time.monotonic() + context.policy.notice_timeout_seconds
    while True:
        deliver_pending(run.ledger)
        notices = [
            item for item in run.ledger.outbox.of_run(holder.dag_id, holder.run_id) if item.message.kind == NOTICE
        ]
        missing = [item.message.channel for item in notices if item.state.value != "delivered"]
        if not notices:
            return GateResult("no_data", "the environment has no channel for information: nobody was told")
        if not missing:
            return GateResult("pass", f"delivered to {', '.join(item.message.channel for item in notices)}")
        if time.monotonic() >= until:
            return GateResult("fail", f"not delivered to {', '.join(missing)}")
        time.sleep(DELIVERY_POLL_SECONDS)


CHECKS: Mapping[str, Callable[[GateContext], GateResult]] = {
    "review_approved": _attested("review_approved"),
    "tests_passed": _attested("tests_passed"),
    "security_scan": security_scan,
    "performance_benchmark": _attested("performance_benchmark"),
    "migrations_tested": migrations_tested,
    "configuration_verified": configuration_verified,
    "rollback_plan": rollback_plan,
    "stakeholders_notified": stakeholders_notified,
}
