"""What deployments wait for: a wait ends by proof, never by an answer that is missing."""

from __future__ import annotations

import base64
import json

import pytest

from sebenza_ops.deployment.waits import JUDGES, missing_build, missing_drained_sessions
from sebenza_ops.systems.release_answers import missing_healthy_release

RELEASE = "v1.1.0-bbbbbbbbbbbb"
VERSIONS = {"app1": "http://a/version", "app2": "http://b/version"}
HEALTHS = {"app1": "http://a/health", "app2": "http://b/health"}


def line(url: str, status: int, body: object) -> str:
    text = body if isinstance(body, str) else json.dumps(body)
    return f"{url} {status:03d} {base64.b64encode(text.encode()).decode()}\n"


def probe(**changes: tuple[int, object]) -> str:
    """Both hosts are healthy with the release, except where said: app1_version=(200, {...})."""
    answers: dict[str, tuple[int, object]] = {}
    for host in VERSIONS:
        answers[f"{host}_version"] = (200, {"release_id": RELEASE})
        answers[f"{host}_health"] = (200, {"status": "ok"})
    answers |= changes
    urls = {f"{h}_version": u for h, u in VERSIONS.items()} | {f"{h}_health": u for h, u in HEALTHS.items()}
    return "".join(line(urls[name], *answer) for name, answer in answers.items())


def missing(**texts: str | None) -> list[str]:
    return missing_healthy_release(texts, version_urls=VERSIONS, health_urls=HEALTHS, release_id=RELEASE)


def test_all_healthy_with_the_release_from_everywhere() -> None:
    assert missing(lb1=probe(), lb2=probe()) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"app2_version": (200, {"release_id": "v1.0.0-aaaaaaaaaaaa"})},
            "it says it is v1.0.0-aaaaaaaaaaaa, not " + RELEASE,
        ),
        ({"app2_version": (200, {})}, "it says it is None"),
        ({"app2_version": (200, [RELEASE])}, "no JSON object"),
        ({"app2_version": (200, "<html>")}, "no JSON object: <html>"),
        ({"app2_version": (200, "")}, "no JSON object"),
        ({"app2_version": (0, "")}, "version page answers nothing"),
        ({"app2_version": (404, "")}, "version page answers 404"),
        ({"app2_health": (503, {"checks": {"database": "down"}})}, 'health check answers 503 {"checks"'),
        ({"app2_health": (0, "")}, "health check answers nothing"),
    ],
)
def test_one_bad_host_seen_from_one_balancer_is_named(change: dict[str, tuple[int, object]], said: str) -> None:
    (problem,) = missing(lb1=probe(), lb2=probe(**change))
    assert problem.startswith("app2 seen from lb2: ")
    assert said in problem


@pytest.mark.parametrize("text", [None, "", "\n", "garbage", "http://a/version", probe()[:30]])
def test_a_balancer_that_says_nothing_keeps_the_wait(text: str | None) -> None:
    assert missing(lb1=probe(), lb2=text), "an empty answer was taken for a healthy release"


def stat(sessions: object = 0, backend: str = "bk_blue") -> str:
    return (
        "== map\n0x1 active bk_green\n== stat\n# pxname,svname,scur,stot,type,\n"
        f"{backend},BACKEND,{sessions},5,1,\n== info\nPid: 1\n"
    )


def drained(**texts: str | None) -> list[str]:
    return missing_drained_sessions(texts, backend="bk_blue", key="active")


def test_no_session_anywhere_ends_the_drain() -> None:
    assert drained(lb1=stat(), lb2=stat()) == []


def test_sessions_are_counted_by_balancer() -> None:
    assert drained(lb1=stat(2), lb2=stat()) == ["lb1 has 2 sessions left on bk_blue"]


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "== stat\n",
        stat().partition("BACKEND")[0],
        stat().partition("BACKEND,")[0] + "BACKEND,",
        stat(backend="x"),
    ],
)
def test_a_balancer_without_an_answer_is_not_drained(text: str | None) -> None:
    (problem,) = drained(lb1=stat(), lb2=text)
    assert problem.startswith("lb2: ")


@pytest.mark.parametrize(
    ("text", "waits"),
    [("running\nnpm ci\n", True), (None, True), ("done\n{}", False), ("failed\nE404", False), ("absent\n", False)],
)
def test_a_build_is_waited_for_while_it_runs(text: str | None, waits: bool) -> None:
    assert bool(missing_build({"build": text})) is waits


def test_a_trigger_finds_every_rule_by_its_name() -> None:
    assert set(JUDGES) == {"missing_healthy_release", "missing_drained_sessions", "missing_build"}
