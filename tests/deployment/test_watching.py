"""Watching a color: the baseline before a change, and a bake that survives kills. Scripted counters, a real ledger."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from sebenza_ops.changes import ChangeRun
from sebenza_ops.deployment.bake import Bake, BakeDecision, fresh_clock
from sebenza_ops.deployment.baseline import SEEN, STALE_SECONDS, UNWELL, Baseline, UnwellError, figures_before
from sebenza_ops.deployment.judge import Trigger
from sebenza_ops.deployment.observe import TrafficHistory
from sebenza_ops.deployment.plan import DeploymentPlan, ReleaseRefusedError
from sebenza_ops.deployment.planning import check_unwell
from sebenza_ops.deployment.progress import Phase, Progress
from sebenza_ops.deployment.switch import undo_begun
from sebenza_ops.deployment.traffic import TrafficControl
from sebenza_ops.environments.models import BlueGreenPolicy, Color
from sebenza_ops.evidence.facts import RunEvidence, load
from sebenza_ops.ledger import Holder, Ledger
from sebenza_ops.systems.errors import HostUnreachableError
from sebenza_ops.systems.haproxy import BackendState, LoadBalancerState, ServerState
from tests.deployment.estate import OLD, balancer
from tests.deployment.test_reconcile_and_plan import RELEASE
from tests.systems.estates import changed

# Without Prometheus health and errors decide; response times have tests of their own.
ENVIRONMENT = changed("production", monitoring={"prometheus_conn_id": None})
POLICY = BlueGreenPolicy(judge_interval_seconds=0.02, hold_timeout_seconds=2)
HOLDER = Holder("deploy_blue_green.production", "manual__1", "thandi")


class Estate:
    """Load balancers whose counters grow by what is scripted at every look; a look of None is not answered.

    Args:
        looks: (requests, errors, answers) of the color for each look; the last one goes on for ever.
        down: The color's server app1 fails its health checks.
    """

    def __init__(self, looks: Iterable[tuple[int, int, int] | None], *, down: bool = False) -> None:
        self._looks = list(looks)
        self._total = [0, 0, 0]
        self._down = down
        self.asked = 0

    def states(self, timeout_seconds: float = 4.0) -> Mapping[str, LoadBalancerState | HostUnreachableError]:
        look = self._looks[min(self.asked, len(self._looks) - 1)]
        self.asked += 1
        if look is None:
            return {name: HostUnreachableError("no answer", host=name) for name in ("lb1", "lb2")}
        self._total = [total + grown for total, grown in zip(self._total, look, strict=True)]
        return {"lb1": self._balancer("lb1", *self._total), "lb2": self._balancer("lb2", 0, 0, 0)}

    def _balancer(self, name: str, requests: int, errors: int, answers: int) -> LoadBalancerState:
        servers = (ServerState("app1", "DOWN" if self._down else "UP", 0), ServerState("app2", "UP", 0))
        both = {
            backend: BackendState(backend, requests, errors, 0, 0, 0, servers, answers)
            for backend in ("bk_blue", "bk_green")
        }
        return balancer(name, "bk_green", backends=both)

    def control(self) -> TrafficControl:
        return cast(TrafficControl, self)


@pytest.fixture
def run(tmp_path: Path) -> ChangeRun:
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    ledger.migrate()
    ledger.deployments.start("production", HOLDER.dag_id, HOLDER.run_id, HOLDER.actor, "v1.1.0", None, "blue_green")
    return ChangeRun(ledger, ENVIRONMENT, HOLDER)


def plan(**changes: Any) -> DeploymentPlan:
    values: dict[str, Any] = {
        "environment": "production",
        "release": RELEASE,
        "from_color": Color.BLUE,
        "to_color": Color.GREEN,
        "from_release": OLD,
        "hosts": ("app1", "app2"),
        "load_balancers": ("lb1", "lb2"),
        "bake_seconds": 0.4,
        "keep_warm_seconds": 0,
    }
    return DeploymentPlan(**(values | changes))


def evidence(run: ChangeRun) -> RunEvidence:
    return load(run.ledger, HOLDER.dag_id, HOLDER.run_id)


@pytest.fixture
def baseline_of_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten seconds are for users; the rules are the same over less."""
    monkeypatch.setattr("sebenza_ops.deployment.baseline.BASELINE_SECONDS", 0.2)
    monkeypatch.setattr("sebenza_ops.deployment.baseline.PATIENCE_SECONDS", 0.1)


def check(run: ChangeRun, estate: Estate, **changes: Any) -> Progress:
    progress = Progress(run)
    Baseline(run, plan(**changes), POLICY, estate.control(), progress).check()
    return progress


@pytest.mark.usefixtures("baseline_of_a_moment")
class TestBaseline:
    def test_a_live_release_that_is_well_lets_the_change_through(self, run: ChangeRun) -> None:
        progress = check(run, Estate([(20, 0, 20)]))
        figures = figures_before(progress)
        assert figures is not None
        assert (figures.verdict, figures.errors, figures.release_id) == ("pass", 0, OLD)
        assert figures.answers > 0
        assert figures.judgements > 1

    def test_half_of_the_requests_failing_refuses_the_change(self, run: ChangeRun) -> None:
        with pytest.raises(UnwellError, match=r"unwell before the change: .*requests in .* failed \(50\.0%"):
            check(run, Estate([(20, 10, 20)]))
        assert "unwell" in Progress(run).text(UNWELL), "the run's end would not know why"
        (figures,) = evidence(run).figures
        assert (figures.verdict, figures.exceeded) == ("fail", (Trigger.ERROR_RATIO.value,))

    def test_a_server_that_is_down_refuses_the_change(self, run: ChangeRun) -> None:
        with pytest.raises(UnwellError, match="app1 at lb1"):
            check(run, Estate([(20, 0, 20)], down=True))

    def test_the_cure_is_let_through_and_is_compared(self, run: ChangeRun) -> None:
        progress = check(run, Estate([(20, 10, 20)]), cure_reason="it closes the leaking connections")
        figures = figures_before(progress)
        assert figures is not None
        assert figures.exceeded == (Trigger.ERROR_RATIO.value,)
        assert any("it closes the leaking connections" in entry.text for entry in evidence(run).timeline)

    @pytest.mark.parametrize("look", [None, (0, 0, 0)])
    def test_what_can_not_be_told_is_said_and_refuses_nothing(self, run: ChangeRun, look: Any) -> None:
        progress = check(run, Estate([look]))
        figures = figures_before(progress)
        assert figures is not None
        assert figures.verdict == "no_data"
        assert any("can't be told" in entry.text for entry in evidence(run).timeline)

    def test_what_was_seen_while_the_release_was_installed_counts(self, run: ChangeRun) -> None:
        history = TrafficHistory(ENVIRONMENT)
        seen = Estate([(20, 0, 20)])
        for second in range(11):
            history.add(seen.states(), Color.BLUE, time.time() - 11 + second)
        Progress(run).save(**{SEEN: history.dump()})
        before = seen.asked
        check(run, seen)
        assert seen.asked == before + 1, "it was looked at longer than there was need to"

    def test_what_was_seen_long_ago_does_not(self, run: ChangeRun) -> None:
        history = TrafficHistory(ENVIRONMENT)
        seen = Estate([(20, 20, 20), (20, 20, 20), (20, 0, 20)])
        for second in range(2):
            history.add(seen.states(), Color.BLUE, time.time() - STALE_SECONDS - 10 + second)
        Progress(run).save(**{SEEN: history.dump()})
        figures = figures_before(check(run, seen))
        assert figures is not None
        assert figures.verdict == "pass", figures.reason


def checked(run: ChangeRun, estate: Estate, **params: object) -> DeploymentPlan:
    return check_unwell(run, plan(), estate.states(), params)


def test_what_is_unwell_at_once_is_refused_before_anything_is_installed(run: ChangeRun) -> None:
    unwell = Estate([(1, 0, 1)], down=True)
    with pytest.raises(ReleaseRefusedError, match="unwell before the change: health checks fail: app1 at lb1"):
        checked(run, unwell)
    assert "app1 at lb1" in Progress(run).text(UNWELL), "the run's end would not know why"
    shown = checked(run, unwell, plan_only=True)
    assert "without cure_reason it is refused" in shown.text()
    cure = checked(run, unwell, cure_reason="it starts without the lost host")
    assert cure.cure_reason == "it starts without the lost host"
    assert "app1 at lb1" in cure.text(), "who approves it does not see what is unwell"
    assert checked(run, Estate([(1, 0, 1)])).warnings == ()


def bake(run: ChangeRun, estate: Estate, seconds: float = 0.4, **changes: Any) -> BakeDecision:
    progress = Progress(run)
    history = TrafficHistory(ENVIRONMENT)
    return Bake(run, plan(**changes), POLICY, estate.control(), progress, history, seconds, lambda _: ()).run()


class TestBake:
    def test_it_lasts_as_long_as_it_says_and_the_evidence_says_so(self, run: ChangeRun) -> None:
        Progress(run).save(switched_at=time.time() - 60, **fresh_clock(time.time()))
        estate = Estate([(5, 0, 5)])
        decision = bake(run, estate)
        assert decision.passed, decision.reason
        assert decision.watched_seconds >= 0.4 - 1e-6, "the time of the proof was taken off"
        found = evidence(run)
        assert len(found.judgements) == decision.judgements == estate.asked
        (figures,) = found.figures
        assert (figures.moment, figures.judgements, figures.release_id) == (
            "after",
            decision.judgements,
            RELEASE.release_id,
        )
        assert "judged" in decision.text

    def test_a_killed_attempt_leaves_its_history_to_the_next(self, run: ChangeRun) -> None:
        """The first attempt sees the errors and dies before it judges them; the retry must not begin with nothing."""
        history = TrafficHistory(ENVIRONMENT)
        estate = Estate([(100, 0, 100), (100, 30, 100), (1, 0, 1)])
        now = time.time()
        for second in (2.0, 1.0):
            history.add(estate.states(), Color.GREEN, now - second)
        Progress(run).save(switched_at=now - 10, history=history.dump(), **fresh_clock(now - 1))
        decision = bake(run, estate, seconds=60)
        assert not decision.passed
        assert decision.trigger is Trigger.ERROR_RATIO, decision.reason

    def test_what_happened_while_nobody_watched_is_judged(self, run: ChangeRun) -> None:
        history = TrafficHistory(ENVIRONMENT)
        estate = Estate([(100, 0, 100), (200, 150, 200)])
        history.add(estate.states(), Color.GREEN, time.time() - 20)
        Progress(run).save(switched_at=time.time() - 30, history=history.dump(), **fresh_clock(time.time() - 20))
        decision = bake(run, estate, seconds=60)
        assert decision.trigger is Trigger.ERROR_RATIO, decision.reason

    def test_errors_that_come_when_no_request_comes_any_more_are_a_failure(self, run: ChangeRun) -> None:
        """A release that answers 500 after eight seconds: its users have gone when the answers come."""
        Progress(run).save(switched_at=time.time(), **fresh_clock(time.time()))
        decision = bake(run, Estate([(100, 0, 0), (0, 0, 0), (0, 3, 3), (0, 40, 40)]), seconds=60)
        assert decision.trigger is Trigger.ERROR_RATIO, decision.reason

    def test_time_that_was_watched_counts_over_attempts(self, run: ChangeRun) -> None:
        now = time.time()
        Progress(run).save(switched_at=now - 100, **{**fresh_clock(now - 50), "watched_seconds": 0.3, "judgements": 15})
        decision = bake(run, Estate([(5, 0, 5)]))
        assert decision.passed
        assert decision.watched_seconds >= 0.4 - 1e-6
        assert decision.judgements > 15 + 1, "the time in which it was dead was counted: it was over at the first look"

    def test_doubts_hold_it_and_too_many_of_them_undo(self, run: ChangeRun) -> None:
        Progress(run).save(switched_at=time.time(), **fresh_clock(time.time()))
        doubts = ["lb1 does not answer the proof's requests"]
        progress, history = Progress(run), TrafficHistory(ENVIRONMENT)
        policy = POLICY.model_copy(update={"hold_timeout_seconds": 0.3})
        estate = Estate([(5, 0, 5)])
        decision = Bake(run, plan(), policy, estate.control(), progress, history, 0.1, lambda _: tuple(doubts)).run()
        assert not decision.passed
        assert decision.trigger is Trigger.HOLD_TIMEOUT
        assert "does not answer the proof" in decision.reason

    def test_doubts_that_end_let_it_pass(self, run: ChangeRun) -> None:
        Progress(run).save(switched_at=time.time(), **fresh_clock(time.time()))
        progress, history = Progress(run), TrafficHistory(ENVIRONMENT)
        left = iter([("lb1 does not answer",)] * 5)
        estate = Estate([(5, 0, 5)])
        decision = Bake(run, plan(), POLICY, estate.control(), progress, history, 0.2, lambda _: next(left, ())).run()
        assert decision.passed, decision.reason
        verdicts = [fact.verdict for fact in evidence(run).judgements]
        assert verdicts[:5] == ["no_data"] * 5
        assert set(verdicts[5:]) == {"pass"}

    def test_a_cure_that_is_none_is_taken_back(self, run: ChangeRun) -> None:
        before = {"answers": 1000, "errors": 500, "exceeded": [Trigger.ERROR_RATIO.value], "verdict": "fail"}
        kept = {
            "at": "2026-11-23T03:00:00Z",
            "moment": "before",
            "color": "blue",
            "release_id": OLD,
            "watched_seconds": 10,
            "judgements": 1,
            "p95_seconds": None,
            **before,
        }
        Progress(run).save(switched_at=time.time(), baseline=kept, **fresh_clock(time.time()))
        decision = bake(run, Estate([(100, 55, 100)]), seconds=60, cure_reason="it should help, we think")
        assert decision.trigger is Trigger.NO_CURE, decision.reason


@pytest.mark.parametrize("trigger", [None, *Trigger])
def test_why_it_is_undone_survives_a_kill(run: ChangeRun, trigger: Trigger | None) -> None:
    """Begun anew without its trigger, the way back would not mark the release bad."""
    Progress(run).save(phase=Phase.UNDOING, undo_reason="8 % failed", undo_trigger=trigger)
    assert undo_begun(Progress(run), "not known") == ("8 % failed", trigger)
