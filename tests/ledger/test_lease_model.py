"""Random histories of runs, people and time: never two holders, tokens only grow, the dead stay dead."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from sebenza_ops.ledger import Holder, LeaseHeld, LeaseLost, Ledger, RunSuperseded
from tests.ledger.conftest import SettableClock

RUNS = [Holder("deploy_blue_green.production", f"run-{number}", "thandi") for number in range(4)]
TTL_SECONDS = 100.0
_environments = itertools.count(1)


@dataclass
class Model:
    """What must be true, written down without looking at the code under test."""

    owner: Holder | None = None
    token: int = 0
    expires_at: float = 0.0
    first_tokens: dict[Holder, int] = field(default_factory=dict)
    granted: list[tuple[int, Holder]] = field(default_factory=list)

    def live_owner(self, now: float) -> Holder | None:
        return self.owner if now < self.expires_at else None

    def superseded(self, run: Holder) -> bool:
        first = self.first_tokens.get(run)
        return first is not None and any(token > first and other != run for token, other in self.granted)

    def grant(self, run: Holder, token: int, now: float) -> None:
        assert token > max((granted for granted, _ in self.granted), default=0)
        self.granted.append((token, run))
        self.first_tokens.setdefault(run, token)
        self.owner, self.token, self.expires_at = run, token, now + TTL_SECONDS


def lease_machine(ledger: Ledger, clock: SettableClock) -> type[RuleBasedStateMachine]:  # noqa: C901 - a class
    class LeaseMachine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.environment = f"environment-{next(_environments)}"
            self.model = Model()

        @property
        def now(self) -> float:
            return clock.moment.timestamp()

        @rule(run=st.sampled_from(RUNS), minimum_token=st.sampled_from([0, 0, 0, 3, 30]))
        def acquire(self, run: Holder, minimum_token: int) -> None:
            owner = self.model.live_owner(self.now)
            refused_for: Holder | None = None
            try:
                lease = ledger.leases.acquire(self.environment, run, "model", TTL_SECONDS, minimum_token)
            except RunSuperseded:
                assert self.model.superseded(run)
                return
            except LeaseHeld as refusal:
                refused_for = refusal.holder
            if owner not in (None, run):
                assert refused_for == owner
                return
            assert refused_for is None
            assert not self.model.superseded(run)
            assert lease.token > minimum_token
            if owner == run and lease.token == self.model.token:
                self.model.expires_at = self.now + TTL_SECONDS
            else:
                self.model.grant(run, lease.token, self.now)

        @rule(run=st.sampled_from(RUNS))
        def take_over(self, run: Holder) -> None:
            try:
                lease = ledger.leases.take_over(self.environment, run, "emergency", TTL_SECONDS)
            except RunSuperseded:
                assert self.model.superseded(run)
                return
            assert not self.model.superseded(run)
            if self.model.live_owner(self.now) == run:
                assert lease.token == self.model.token
                self.model.expires_at = self.now + TTL_SECONDS
            else:
                self.model.grant(run, lease.token, self.now)

        @precondition(lambda self: self.model.granted)
        @rule(data=st.data())
        def renew(self, data: st.DataObject) -> None:
            token, run = data.draw(st.sampled_from(self.model.granted))
            is_live = token == self.model.token and self.model.live_owner(self.now) == run
            try:
                ledger.leases.renew(self.environment, token, TTL_SECONDS)
            except LeaseLost:
                assert not is_live
                return
            assert is_live
            self.model.expires_at = self.now + TTL_SECONDS

        @precondition(lambda self: self.model.granted)
        @rule(data=st.data())
        def release(self, data: st.DataObject) -> None:
            token, _run = data.draw(st.sampled_from(self.model.granted))
            ledger.leases.release(self.environment, token, "model")
            if token == self.model.token:
                self.model.owner = None

        @rule(seconds=st.sampled_from([1.0, 60.0, TTL_SECONDS]))
        def wait(self, seconds: float) -> None:
            clock.advance(seconds)

        @invariant()
        def ledger_agrees_about_the_holder(self) -> None:
            lease = ledger.leases.current(self.environment)
            owner = self.model.live_owner(self.now)
            assert (lease.holder if lease else None) == owner
            if lease is not None:
                assert lease.token == self.model.token

    return LeaseMachine


def test_leases_follow_the_model(ledger: Ledger, clock: SettableClock) -> None:
    run_state_machine_as_test(
        lease_machine(ledger, clock),
        settings=settings(
            max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
