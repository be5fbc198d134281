"""Switch, prove and bake: the part of a deployment that must react within a second, and survive being killed.

It runs in one worker task. What it must not forget is in the ledger (`Progress`); what is true it asks the load
balancers. Started again after a kill, it goes on from where they are.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NoReturn

from sebenza_ops.changes import ChangeRun
from sebenza_ops.deployment.bake import HISTORY, Bake, BakeDecision, fresh_clock
from sebenza_ops.deployment.baseline import UNWELL, Baseline, UnwellError
from sebenza_ops.deployment.judge import Trigger
from sebenza_ops.deployment.observe import TrafficHistory, servers_up
from sebenza_ops.deployment.plan import DeploymentPlan
from sebenza_ops.deployment.progress import Phase, Progress
from sebenza_ops.deployment.proof import TrustError, counter_snapshots, prove_by_requests, trusted_context
from sebenza_ops.deployment.proving import UNPROVEN, Proof
from sebenza_ops.deployment.reconcile import LoadBalancerStates
from sebenza_ops.deployment.traffic import PATIENT_TIMEOUT_SECONDS, SplitTrafficError, TrafficControl, colors_now
from sebenza_ops.environments.models import BlueGreenPolicy, Color
from sebenza_ops.ledger import LedgerUnavailable
from sebenza_ops.systems.errors import FencedOffError, OutsideSystemError
from sebenza_ops.systems.haproxy import LoadBalancerState

SWITCH_BACK_DEADLINE_SECONDS = 30.0
# HAProxy's own checks need two good answers a second apart; the release has answered already by then.
IDLE_UP_DEADLINE_SECONDS = 20.0
# HAProxy that restarts before its map file is written serves the old color again; it is switched anew, so often.
MAXIMUM_REAPPLIED = 3
RECENT_RESTART_SECONDS = 60


class ReleaseRejectedError(Exception):
    """The new release did not pass, and traffic is back on the old color. Never retried."""


class SwitchFailedError(Exception):
    """Traffic could not be moved; all of it is on the old color."""


def mark_bad(run: ChangeRun, release_id: str, reason: str) -> None:
    """Refuse a release in the run's environment from now on. A ledger that is down does not stop the way back."""
    try:
        run.ledger.releases.mark_bad(run.environment.name, release_id, reason, run.holder)
    except LedgerUnavailable as error:
        run.note(f"{release_id} could not be marked bad, do not deploy it again: {error}", "warning")


class TrafficSwitch:
    """One deployment's switch, proof and bake, and the way back.

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
        self._history = TrafficHistory(run.environment)
        self._baseline = Baseline(run, plan, policy, control, self.progress)
        self._proof = self._proof_of(plan.to_color, plan.release.release_id, "switch")
        self._reapplied = 0
        self._process_ids: dict[str, int] = {}

    def execute(self) -> BakeDecision:
        """Switch, prove and bake, from wherever an earlier attempt was stopped.

        Raises:
            ReleaseRejectedError: A trigger fired; traffic is back on the old color, and the release is marked bad.
            SwitchFailedError: A load balancer could not be switched; all are on the old color.
            SplitTrafficError: Traffic is on two colors, and could not be mended from here.
            FencedOffError: A later change holds the environment.
        """
        phase = self.progress.phase
        if phase in (Phase.UNDOING, Phase.UNDONE):
            self.undo(*undo_begun(self.progress, "an earlier attempt began to undo"))
        if phase is Phase.BAKED:
            return BakeDecision(True, "passed before", None, int(self.progress.number("requests", 0)), 0)
        if phase is None:
            # A run that was cleared begins anew.
            self.progress.save(**{UNWELL: "", UNPROVEN: False, HISTORY: {}}, requests=0, answers=0, errors=0)
            self._check_trust()
            self._sample(self.control.states(PATIENT_TIMEOUT_SECONDS))
            self._check_baseline()
            self._warm_up()
            self._check_before_switch()
        if phase in (None, Phase.SWITCHING):
            self._switch()
        bake = Bake(
            self.run,
            self.plan,
            self.policy,
            self.control,
            self.progress,
            self._history,
            self.plan.bake_seconds,
            self._look_after,
        )
        try:
            decision = bake.run()
        finally:
            self._proof.close()
        if not decision.passed:
            self.undo(decision.reason, decision.trigger)
        self.run.record(counter_snapshots(self.environment, self.control.states(), "after the bake"))
        self.run.note(f"{self.plan.to_color} has passed: {decision.text}", "success", mark="drain")
        self.progress.save(phase=Phase.BAKED)
        return decision

    def undo(self, reason: str, trigger: Trigger | None) -> NoReturn:
        """Bring all traffic back to the old color, prove it, and raise ReleaseRejectedError with the reason.

        The release is marked bad when a trigger fired for what it did; missing data is nobody's fault.
        """
        back, bad = self.plan.from_color, trigger is not None and trigger.blames_release
        states = self.control.states()
        self._refuse_dead_target(states, back, reason)
        self.progress.save(phase=Phase.UNDOING, undo_reason=reason, undo_trigger=trigger)
        self.run.note(f"{reason}: switching back to {back}", "error")
        self.bring_back(back, self.plan.from_release, reason, "switch back")
        self.progress.save(phase=Phase.UNDONE)
        if bad:
            mark_bad(self.run, self.plan.release.release_id, reason)
        mark = " The release is marked bad here." if bad else ""
        raise ReleaseRejectedError(
            f"{self.plan.release.release_id} was taken back: {reason}. All traffic is on {back} "
            f"({self.plan.from_release}).{mark}"
        )

    def bring_back(self, color: Color, release_id: str | None, reason: str, step: str) -> list[str]:
        """Send all traffic to a color that was proven before, at once, and make it last.

        Returns what contradicts it, by either source, and who has not answered. Raises SplitTrafficError,
        FencedOffError.
        """
        began = time.monotonic()
        left = self.control.settle(color, self.run.fence, SWITCH_BACK_DEADLINE_SECONDS)
        if left:
            self._declare_split(color, left, reason)
        took_ms = (time.monotonic() - began) * 1000
        self.run.note(f"all new requests go to {color} again (took {took_ms:.0f} ms)", "success", mark="switch_back")
        # Before anything that needs the ledger: a reload must not bring the rejected color back.
        self._persist(color)
        found = self._proof_of(color, release_id, step).prove(f"after the {step}")
        self._sample(found.after)
        wrong = [*found.wrong, *found.missing]
        if wrong:
            self.run.note(f"proof of the {step}: {'; '.join(wrong)}", "error")
        return wrong

    def _proof_of(self, color: Color, release_id: str | None, step: str) -> Proof:
        return Proof(self.run, self.control, self.progress, color, release_id, self.policy.proof_requests, step)

    def _check_trust(self) -> None:
        try:
            trusted_context(self.environment)
        except TrustError as error:
            raise SwitchFailedError(f"not switched, traffic stays on {self.plan.from_color}: {error}") from error

    def _check_baseline(self) -> None:
        try:
            self._baseline.check()
        except UnwellError as error:
            raise SwitchFailedError(f"not switched, traffic stays on {self.plan.from_color}: {error}") from error

    def _refuse_dead_target(self, states: LoadBalancerStates, back: Color, reason: str) -> None:
        """There is no way back to a color without a healthy server: traffic stays, and people must know."""
        reachable = [state for state in states.values() if isinstance(state, LoadBalancerState)]
        there = self.plan.to_color
        if not reachable or servers_up(self.environment, back, states) > 0:
            return
        if servers_up(self.environment, there, states) == 0:
            return
        raise ReleaseRejectedError(
            f"{self.plan.release.release_id} did not pass ({reason}), but {back} has no healthy server to go back to: "
            f"traffic STAYS on {there}. Start {back} again or deploy a good release now."
        )

    def _warm_up(self) -> None:
        """Fill pools, caches and compiled code of the idle color before users come."""
        application = self.environment.application
        port = application.colors[self.plan.to_color].port
        urls = [
            f"http://{self.environment.host(name).address}:{port}{path}"
            for name in self.plan.hosts
            for path in application.warm_up_paths
        ]
        for name, result in self.control.warm_up(urls, self.policy.warm_up_requests).items():
            if isinstance(result, OutsideSystemError):
                raise SwitchFailedError(f"not switched, traffic stays on {self.plan.from_color}: {result}") from result
            answered, failed = result
            self.run.note(f"warmed {self.plan.to_color} up: {answered} requests answered, {failed} failed", host=name)
            if failed > answered * self.policy.error_ratio_threshold:
                raise SwitchFailedError(
                    f"not switched, traffic stays on {self.plan.from_color}: {failed} of {answered + failed} warm-up "
                    f"requests from {name} to {self.plan.to_color} failed"
                )

    def _check_before_switch(self) -> None:
        """Wait until every load balancer's own health checks pass for all servers of the idle color."""
        until = time.monotonic() + IDLE_UP_DEADLINE_SECONDS
        while True:
            states = self.control.states(PATIENT_TIMEOUT_SECONDS)
            self._sample(states)
            problems = self._problems_before_switch(states)
            if not problems:
                self.run.record(counter_snapshots(self.environment, states, "before"))
                return
            if time.monotonic() >= until:
                raise SwitchFailedError(
                    f"not switched, traffic stays on {self.plan.from_color}: {'; '.join(problems)}. Start a new run."
                )
            time.sleep(0.3)

    def _problems_before_switch(self, states: LoadBalancerStates) -> list[str]:
        problems = [str(state) for state in states.values() if isinstance(state, OutsideSystemError)]
        colors = colors_now(self.environment, states)
        for name, state in states.items():
            if not isinstance(state, LoadBalancerState):
                continue
            if colors[name] is not self.plan.from_color:
                raise SwitchFailedError(
                    f"not switched: {name} sends to {colors[name]}, but the plan was made for {self.plan.from_color}. "
                    "Start a new run."
                )
            idle = state.backend(self.environment.application.colors[self.plan.to_color].backend)
            if idle.servers_up < len(self.plan.hosts):
                problems.append(
                    f"{name} sees {idle.servers_up} of {len(self.plan.hosts)} healthy servers of {self.plan.to_color}"
                )
        return problems

    def _switch(self) -> None:
        self.progress.save(phase=Phase.SWITCHING)
        target = self.plan.to_color
        began = time.monotonic()
        results = self.control.switch(target, self.run.fence)
        switch_seconds = time.monotonic() - began
        failed = [error for error in results.values() if error is not None]
        for error in failed:
            if isinstance(error, FencedOffError):
                raise error
        if failed:
            self._give_up_switch("; ".join(str(error) for error in failed))
        now = time.time()
        self.progress.save(switched_at=now, switch_seconds=switch_seconds)
        self.run.note(
            f"new requests go to {target} on {', '.join(self.control.names)} (took {switch_seconds * 1000:.0f} ms)",
            mark="switch",
        )
        self._prove_switch()
        self._persist(target)
        self.progress.save(phase=Phase.BAKING, **fresh_clock(time.time()))
        self.run.note(f"watching {target} for {self.plan.bake_seconds:g} s", mark="bake")

    def _give_up_switch(self, reason: str) -> None:
        back = self.plan.from_color
        self.run.note(f"a load balancer could not be switched ({reason}); switching all back to {back}", "error")
        self.progress.save(phase=Phase.UNDOING, undo_reason=reason, undo_trigger=None)
        # A command that hangs on its way must not arrive after the way back.
        self.run.refence(self.policy.lease_ttl_seconds)
        left = self.control.settle(back, self.run.fence, SWITCH_BACK_DEADLINE_SECONDS)
        if left:
            self._declare_split(back, left, reason)
        self.progress.save(phase=Phase.UNDONE)
        raise SwitchFailedError(f"not switched: {reason}. All load balancers send to {back}, as before.")

    def _declare_split(self, wanted: Color, left: dict[str, str], reason: str) -> None:
        """Say loudly that load balancers may send to another color, unless their answers prove the opposite."""
        seen = prove_by_requests(self.environment, wanted, None, 3)
        unknown = [name for name in left if not seen[name].passed]
        if not unknown:
            self.run.note(f"{', '.join(left)} can't be reached for commands, but answers from {wanted}", "warning")
            return
        balancing = self.environment.load_balancing
        backend = self.environment.application.colors[wanted].backend
        raise SplitTrafficError(
            f"SPLIT TRAFFIC in {self.environment.name}: all load balancers should send to {wanted}, but "
            f"{', '.join(unknown)} could not be told so ({'; '.join(left[name] for name in unknown)}; it began with: "
            f"{reason}). Take it out of service now (DNS, or the router in front), or on its console run: "
            f"echo 'set map {balancing.map_file} {balancing.map_key} {backend}' | socat - {balancing.admin_socket} . "
            "Then clear this run."
        )

    def _prove_switch(self) -> None:
        """Prove the switch by both sources. What disproves it is undone; what is missing is asked for in the bake."""
        found = self._proof.prove("after the switch")
        self._sample(found.after)
        if found.wrong:
            # Counters that differ may have other reasons; a wrong answer is the release's.
            trigger = Trigger.HEALTH if found.guilty else None
            self.undo(f"the proof of the switch failed: {'; '.join(found.wrong)}", trigger)
        if found.missing:
            self._proof.complete_later(found.missing)

    def _persist(self, color: Color) -> None:
        for name, error in self.control.persist(color, self.run.fence).items():
            if isinstance(error, FencedOffError):
                raise error
            if error is not None:
                # The running HAProxy is right; a restart before this is mended would fall back to the old color.
                self.run.note(f"its map file or marker could not be written: {error}", "warning", host=name)

    def _look_after(self, states: LoadBalancerStates) -> Sequence[str]:
        self._keep_switched(states)
        return self._proof.still_missing(self.undo)

    def _keep_switched(self, states: LoadBalancerStates) -> None:
        """Switch a load balancer anew that was restarted before its map file was written, and fell back.

        One that changed without a restart was changed by a person: that is respected, all traffic follows.
        """
        target = self.plan.to_color
        colors = colors_now(self.environment, states)
        known = {name: state for name, state in states.items() if isinstance(state, LoadBalancerState)}
        lost = [name for name in known if colors[name] is not target]
        restarted = [name for name in lost if self._was_restarted(known[name])]
        self._process_ids.update({name: state.process_id for name, state in known.items()})
        if not lost:
            return
        self._reapplied += 1
        if len(restarted) < len(lost) or self._reapplied > MAXIMUM_REAPPLIED:
            self.undo(f"{', '.join(lost)} was switched away from {target} by somebody else", None)
        self.run.note(f"{', '.join(lost)} was restarted and fell back, switching it to {target} anew", "warning")
        for error in self.control.switch(target, self.run.fence, lost).values():
            if isinstance(error, FencedOffError):
                raise error
        self._persist(target)

    def _was_restarted(self, state: LoadBalancerState) -> bool:
        before = self._process_ids.get(state.host)
        return state.uptime_seconds < RECENT_RESTART_SECONDS if before is None else before != state.process_id

    def _sample(self, states: LoadBalancerStates) -> None:
        """Keep both colors' traffic for the report, so that it shows the switch and not only what came after it."""
        self.run.record(self._history.add(states, self.plan.to_color, time.time()))
        if self.progress.phase is None:
            self._baseline.add(states)


def undo_begun(progress: Progress, otherwise: str) -> tuple[str, Trigger | None]:
    """Why an earlier attempt has begun to undo, and by which trigger; `otherwise` where it has not said why."""
    trigger = progress.text("undo_trigger")
    return progress.text("undo_reason", otherwise), Trigger(trigger) if trigger else None
