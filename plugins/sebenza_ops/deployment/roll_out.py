"""A rolling deployment: hosts of the live color get the release one batch after another, each proven and watched.

It runs in one worker task, as the switch does: a trigger is acted on within a second, and a task that was killed goes
on from what the ledger says was begun.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

from sebenza_ops.changes import ChangeRun
from sebenza_ops.deployment.bake import HISTORY, Bake, BakeDecision, fresh_clock
from sebenza_ops.deployment.baseline import UNWELL, Baseline, UnwellError
from sebenza_ops.deployment.judge import Trigger
from sebenza_ops.deployment.observe import TrafficHistory
from sebenza_ops.deployment.plan import DeploymentPlan
from sebenza_ops.deployment.progress import Phase, Progress
from sebenza_ops.deployment.proof import TrustError, counter_snapshots, trusted_context
from sebenza_ops.deployment.proving import UNPROVEN, Proof
from sebenza_ops.deployment.reconcile import LoadBalancerStates
from sebenza_ops.deployment.rotation import HostsNotChangedError, Rotation
from sebenza_ops.deployment.switch import ReleaseRejectedError, SwitchFailedError, mark_bad, undo_begun
from sebenza_ops.deployment.traffic import PATIENT_TIMEOUT_SECONDS, TrafficControl, colors_now
from sebenza_ops.environments.models import BlueGreenPolicy
from sebenza_ops.ledger import UNSETTLED
from sebenza_ops.systems.errors import FencedOffError, OutsideSystemError

# What the run keeps in the ledger, each a list of hosts: drained or to be drained; started anew or about to be; back in
# rotation with the release; watched.
TOUCHED, RESTARTED, CHANGED, WATCHED = "touched", "restarted", "changed", "watched"


class RollOut:
    """One rolling deployment, and its way back.

    Args:
        run: The run's hold on the environment, with this attempt's fence.
        plan: The deployment's plan.
        control: The environment's load balancers.
    """

    def __init__(self, run: ChangeRun, plan: DeploymentPlan, control: TrafficControl) -> None:
        policy = run.environment.policies.blue_green
        if policy is None:
            raise ValueError(f"environment {run.environment.name} has no policy blue_green")
        self.run, self.plan, self.control = run, plan, control
        self.environment = run.environment
        self.policy: BlueGreenPolicy = policy
        self.progress = Progress(run)
        self._rotation = Rotation(run, plan, control, policy)
        self._history = TrafficHistory(run.environment, servers=frozenset())
        self._proof = self._proof_of(plan.release.release_id, "switch")

    def execute(self) -> BakeDecision:
        """Change, prove and watch all hosts, from wherever an earlier attempt was stopped.

        Raises:
            ReleaseRejectedError: A trigger fired, or a host could not be changed; the hosts that had the release are
                back on the one before, or the message names those that are not.
            SwitchFailedError: It could not begin; nothing was changed.
            FencedOffError: A later change holds the environment.
        """
        phase = self.progress.phase
        reason, trigger = undo_begun(self.progress, "an earlier attempt began to undo")
        if phase is Phase.UNDONE:
            raise ReleaseRejectedError(f"{self.plan.release.release_id} was taken back before: {reason}")
        if phase is Phase.UNDOING:
            self.undo(reason, trigger)
        if phase is Phase.BAKED:
            return BakeDecision(True, "passed before", None, int(self.progress.number("requests", 0)), 0)
        if phase is None:
            self._begin()
        try:
            if phase is not Phase.BAKING:
                for batch in self.plan.batches:
                    self._change_and_watch(batch)
                self._prove()
                self.progress.save(phase=Phase.BAKING, **fresh_clock(time.time()))
                self.run.note(f"watching all hosts for {self.plan.bake_seconds:g} s", mark="bake")
            decision = self._watch(self.plan.hosts, self.plan.bake_seconds)
        except FencedOffError:
            raise
        except (HostsNotChangedError, OutsideSystemError) as error:
            self.undo(str(error), None)
        finally:
            self._proof.close()
        self.run.record(counter_snapshots(self.environment, self.control.states(), "after the bake"))
        self.run.note(f"{self.plan.release.release_id} has passed: {decision.text}", "success")
        self.progress.save(phase=Phase.BAKED)
        return decision

    def undo(self, reason: str, trigger: Trigger | None) -> NoReturn:
        """Bring the hosts that have the release back to the one before, and raise ReleaseRejectedError.

        The release is marked bad when a trigger fired for what it did; a host that is lost is not its fault.
        """
        bad = trigger is not None and trigger.blames_release
        self.progress.save(phase=Phase.UNDOING, undo_reason=reason, undo_trigger=trigger)
        self.run.note(f"{reason}: {self.plan.way_back}", "error", mark="switch_back")
        restarted = self.progress.names(RESTARTED)
        left: dict[str, str] = {}
        for hosts in self._undo_batches(restarted):
            left |= self._bring_back(hosts, bad)
        only_drained = [name for name in self.progress.names(TOUCHED) if name not in restarted]
        if only_drained:
            left |= self._attempt(only_drained, lambda: self._rotation.put_back(only_drained))
        release_id = self.plan.release.release_id
        if bad:
            mark_bad(self.run, release_id, reason)
        mark = " The release is marked bad here." if bad else ""
        if left:
            shown = "; ".join(f"{name}: {problem}" for name, problem in left.items())
            text = f"{reason}. NOT all hosts are back on {self.plan.from_release}: {shown}."
            self.run.note(text, "error")
            self.progress.save(**{UNSETTLED: True})
            raise ReleaseRejectedError(f"{text}{mark} Mend them, then clear this run: it goes on with the way back.")
        self.progress.save(phase=Phase.UNDONE, **{UNSETTLED: False})
        self._prove_back()
        raise ReleaseRejectedError(
            f"{release_id} was taken back: {reason}. All hosts of {self.plan.to_color} run "
            f"{', '.join(sorted(set(self.plan.previous.values())))}.{mark}"
        )

    def _begin(self) -> None:
        """Look once more, before the first host is touched."""
        stays = f"not started, {self.plan.from_release} runs on all hosts as before"
        try:
            trusted_context(self.environment)
        except TrustError as error:
            raise SwitchFailedError(f"{stays}: {error}") from error
        states = self.control.states(PATIENT_TIMEOUT_SECONDS)
        problems = [str(state) for state in states.values() if isinstance(state, OutsideSystemError)]
        colors = colors_now(self.environment, states)
        problems += [
            f"{name} sends to {color}, but the plan was made for {self.plan.to_color}"
            for name, color in colors.items()
            if color is not None and color is not self.plan.to_color
        ]
        if problems:
            raise SwitchFailedError(f"{stays}: {'; '.join(problems)}. Start a new run.")
        self.progress.save(**{UNWELL: "", UNPROVEN: False, HISTORY: {}}, requests=0, answers=0, errors=0)
        try:
            Baseline(self.run, self.plan, self.policy, self.control, self.progress).check()
        except UnwellError as error:
            raise SwitchFailedError(f"{stays}: {error}") from error
        self._sample(states)
        self.run.record(counter_snapshots(self.environment, states, "before"))
        self.progress.save(
            **{TOUCHED: [], RESTARTED: [], CHANGED: [], WATCHED: []}, phase=Phase.ROLLING, switched_at=time.time()
        )

    def _change_and_watch(self, batch: Sequence[str]) -> None:
        if set(batch) <= set(self.progress.names(WATCHED)):
            return
        shown = ", ".join(batch)
        if not set(batch) <= set(self.progress.names(CHANGED)):
            self._keep(TOUCHED, batch)
            self._rotation.take_out(batch)
            releases = dict.fromkeys(batch, self.plan.release.release_id)
            self._keep(RESTARTED, batch)
            self._rotation.restart(releases)
            self._rotation.await_healthy(releases)
            self._rotation.warm_up(batch)
            self._sample(self.control.states())
            self._rotation.put_back(batch)
            self._keep(CHANGED, batch)
            self.progress.save(**fresh_clock(time.time()))
            self.run.note(f"watching {shown} for {self.plan.watch_seconds:g} s", mark="host")
        self._watch(self.progress.names(CHANGED), self.plan.watch_seconds)
        self._keep(WATCHED, batch)
        self.run.note(f"{shown}: {self.plan.release.release_id} passes with users' requests", "success")

    def _watch(self, hosts: Iterable[str], seconds: float) -> BakeDecision:
        """Judge the hosts that have the release until they were watched for so long; a trigger undoes."""
        self._history.servers = frozenset(hosts)
        decision = Bake(
            self.run, self.plan, self.policy, self.control, self.progress, self._history, seconds, self._look_after
        ).run()
        if not decision.passed:
            self.undo(decision.reason, decision.trigger)
        return decision

    def _look_after(self, states: LoadBalancerStates) -> Sequence[str]:
        self._check_color(states)
        return self._proof.still_missing(self.undo)

    def _check_color(self, states: LoadBalancerStates) -> None:
        colors = colors_now(self.environment, states)
        away = [name for name, color in colors.items() if color not in (None, self.plan.to_color)]
        if away:
            self.undo(f"{', '.join(away)} was switched away from {self.plan.to_color} by somebody else", None)

    def _undo_batches(self, hosts: Sequence[str]) -> list[Sequence[str]]:
        """All at once while enough others serve; else one after the other."""
        if not hosts:
            return []
        others = len(self.plan.hosts) - len(hosts)
        return [hosts] if others >= self.plan.minimum_in_rotation else [[name] for name in hosts]

    def _bring_back(self, hosts: Sequence[str], bad: bool) -> dict[str, str]:
        releases = {name: self.plan.previous[name] for name in hosts}

        def bring() -> None:
            # A bad release hurts more than a restart that one load balancer was not told of.
            self._rotation.take_out(hosts, despite_unreachable=bad)
            self._rotation.restart(releases)
            self._rotation.await_healthy(releases)
            self._rotation.put_back(hosts, despite_unreachable=bad)

        left = self._attempt(hosts, bring)
        if not left or len(hosts) == 1:
            return left
        # One that is lost must not keep the others back.
        return {name: problem for host in hosts for name, problem in self._bring_back([host], bad).items()}

    def _attempt(self, hosts: Sequence[str], action: Callable[[], None]) -> dict[str, str]:
        try:
            action()
        except FencedOffError:
            raise
        except (HostsNotChangedError, OutsideSystemError) as error:
            self.run.note(str(error), "error")
            return dict.fromkeys(hosts, str(error))
        return {}

    def _proof_of(self, release_id: str | None, step: str) -> Proof:
        color = self.plan.to_color
        return Proof(self.run, self.control, self.progress, color, release_id, self.policy.proof_requests, step)

    def _prove(self) -> None:
        """Prove by both sources that users get the release, and nothing else, from the live color."""
        found = self._proof.prove("after the last host")
        self._sample(found.after)
        if found.wrong:
            self.undo(f"the proof failed: {'; '.join(found.wrong)}", Trigger.HEALTH if found.guilty else None)
        if found.missing:
            self._proof.complete_later(found.missing)

    def _prove_back(self) -> None:
        releases = set(self.plan.previous.values())
        release_id = releases.pop() if len(releases) == 1 else None
        found = self._proof_of(release_id, "switch back").prove("after the way back")
        problems = [*found.wrong, *found.missing]
        if problems:
            self.run.note(f"proof of the way back: {'; '.join(problems)}", "error")

    def _sample(self, states: LoadBalancerStates) -> None:
        self.run.record(self._history.add(states, self.plan.to_color, time.time()))

    def _keep(self, key: str, hosts: Sequence[str]) -> None:
        known = self.progress.names(key)
        self.progress.save(**{key: [*known, *(name for name in hosts if name not in known)]})
