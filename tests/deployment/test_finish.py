"""What a run's end is called, by what failed and where traffic goes."""

import pytest

from sebenza_ops.deployment.finish import LiveTraffic, judge_outcome
from sebenza_ops.deployment.operators import failed_tasks
from sebenza_ops.deployment.plan import make_plan
from sebenza_ops.environments.models import Color
from sebenza_ops.ledger import Outcome
from tests.deployment.test_reconcile_and_plan import ENVIRONMENT, RELEASE, found

PLAN = make_plan(ENVIRONMENT, RELEASE, found(), bake_seconds=10, keep_warm_seconds=60)
BLUE = LiveTraffic({"lb1": Color.BLUE, "lb2": Color.BLUE})
GREEN = LiveTraffic({"lb1": Color.GREEN, "lb2": Color.GREEN})
SPLIT = LiveTraffic({"lb1": Color.BLUE, "lb2": Color.GREEN})
HALF_KNOWN = LiveTraffic({"lb1": Color.BLUE, "lb2": None})


@pytest.mark.parametrize(
    ("plan", "failed", "live", "more", "outcome", "said"),
    [
        (PLAN, [], GREEN, {}, Outcome.SUCCEEDED, "is live on green"),
        (None, [], BLUE, {}, Outcome.SUCCEEDED, "nothing to do"),
        (PLAN, [], BLUE, {"plan_only": True}, Outcome.PLANNED, "nothing was changed"),
        (None, ["acquire_lease"], BLUE, {}, Outcome.REFUSED, "before anything was changed"),
        (None, ["plan_deployment"], HALF_KNOWN, {}, Outcome.REFUSED, "lb2 unknown"),
        (PLAN, ["await_idle_healthy"], BLUE, {}, Outcome.FAILED, "await_idle_healthy failed"),
        (PLAN, ["switch_prove_and_bake"], BLUE, {"undo_reason": "8 % failed"}, Outcome.ROLLED_BACK, "8 % failed"),
        (PLAN, ["switch_prove_and_bake"], SPLIT, {}, Outcome.SPLIT, "DISAGREE"),
        (PLAN, ["switch_prove_and_bake"], HALF_KNOWN, {"split": "SPLIT TRAFFIC: lb2"}, Outcome.SPLIT, "SPLIT TRAFFIC"),
        (PLAN, [], SPLIT, {}, Outcome.SPLIT, "DISAGREE"),
    ],
)
def test_the_outcome(plan, failed, live, more, outcome, said):
    found_outcome, summary = judge_outcome("production", plan, failed, live, **more)
    assert found_outcome is outcome, summary
    assert said in summary


def test_what_is_unknown_is_no_disagreement():
    assert not HALF_KNOWN.is_split
    assert HALF_KNOWN.agreed is None
    assert LiveTraffic({"lb1": None}).text == "no load balancer tells where it sends"


def test_the_task_that_failed_itself_is_named_before_those_that_never_ran():
    states = {"a": "success", "b": "upstream_failed", "c": "failed", "finish": "running"}
    assert failed_tasks(states, "finish") == ["c"]
    assert failed_tasks({"a": "upstream_failed"}, "finish") == ["a"]
    assert failed_tasks({"a": "skipped", "finish": "failed"}, "finish") == []
