"""The rules of the script for CI: what it signs, what it refuses, how it judges. No server is asked."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab import paths
from sebenza_ops.deployment.attestation import AttestedGateName, verify
from tests.ci import script

deploy = script.load()
NOW = datetime(2026, 11, 24, 10, tzinfo=UTC)
SHA, KEY = "0123456789abcdef0123456789abcdef01234567", "k" * 32
PASSWORD = "correct-horse-battery"
VARIABLES = {
    "SEBENZA_AIRFLOW_URL": "http://127.0.0.1:9",
    "SEBENZA_AIRFLOW_PASSWORD": PASSWORD,
    "SEBENZA_ATTESTATION_KEY": KEY,
    "SEBENZA_PATIENCE": "0.2",
}
FLAGS = ["--environment", "staging", "--sha", SHA, "--pipeline-id", "4711"]


def arguments(file: Path, **changes: Any) -> argparse.Namespace:
    values = {
        "attestation": str(file),
        "sha": SHA,
        "version": "v1.1.0",
        "pipeline_id": "4711",
        "pipeline_url": "https://ci.example/4711",
        "requested_by": "thandi",
        "expires_in": 3600.0,
    }
    return argparse.Namespace(**values | changes)


def written(directory: Path, document: Any) -> Path:
    file = directory / "gates.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    return file


def test_what_it_signs_is_what_airflows_side_verifies(tmp_path: Path) -> None:
    gate = {"verdict": "pass", "detail": "812 tests, 98 % – all", "url": "https://ci.example/4711/tests"}
    file = written(tmp_path, {"gates": {"tests_passed": gate}, "author": "naledi", "reviewers": ["sipho"]})

    found = verify(deploy.sign(deploy.attestation(arguments(file), NOW), KEY), KEY, SHA, NOW)

    assert (found.author, found.reviewers, found.requested_by, found.version) == (
        "naledi",
        ("sipho",),
        "thandi",
        "v1.1.0",
    )
    assert found.gates["tests_passed"].model_dump() == gate
    assert (found.pipeline.id, found.pipeline.url) == ("4711", "https://ci.example/4711")
    assert (found.expires_at - found.issued_at).total_seconds() == 3600


@given(detail=st.text(max_size=1000), author=st.text(min_size=1, max_size=200))
def test_whatever_text_is_signed_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, detail: str, author: str
) -> None:
    gates = {"security_scan": {"verdict": "no_data", "detail": detail}}
    file = written(tmp_path_factory.getbasetemp(), {"gates": gates, "author": author})
    found = verify(deploy.sign(deploy.attestation(arguments(file), NOW), KEY), KEY, SHA, NOW)
    assert (found.gates["security_scan"].detail, found.author) == (detail, author)


def test_its_gates_are_the_attestations() -> None:
    assert set(deploy.GATES) == set(get_args(AttestedGateName))


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("{", "gates.json"),
        ("[]", "expected an object"),
        ({}, "expected an object"),
        ({"gates": [], "author": "a"}, "expected an object"),
        ({"gates": {}, "author": "a", "sha": SHA}, "expected an object"),
        ({"gates": {"rollback_plan": {"verdict": "pass"}}, "author": "a"}, "gate rollback_plan"),
        ({"gates": {"tests_passed": {"verdict": "success"}}, "author": "a"}, "gate tests_passed"),
        ({"gates": {"tests_passed": "pass"}, "author": "a"}, "gate tests_passed"),
        ({"gates": {"tests_passed": {"verdict": "pass", "detail": None}}, "author": "a"}, "gate tests_passed"),
        ({"gates": {"tests_passed": {"verdict": "pass", "detail": "x" * 1001}}, "author": "a"}, "gate tests_passed"),
        ({"gates": {"tests_passed": {"verdict": "pass", "url": "javascript:alert(1)"}}, "author": "a"}, "gate tests"),
        ({"gates": {"tests_passed": {"verdict": "pass", "link": "x"}}, "author": "a"}, "gate tests_passed"),
        ({"gates": {}, "author": "a", "reviewers": "sipho"}, "reviewers a list"),
        ({"gates": {}, "author": "a", "reviewers": [{"login": "sipho"}]}, "reviewers a list"),
        ({"gates": {}, "author": 7}, "people are text"),
        ({"gates": {}}, f"git knows no commit {SHA}"),
    ],
)
def test_a_file_that_is_no_list_of_gates_starts_nothing(tmp_path: Path, document: Any, expected: str) -> None:
    with pytest.raises(deploy.Stop, match=expected) as stopped:
        deploy.attestation(arguments(written(tmp_path, document)), NOW)
    assert stopped.value.code == 3


def test_author_and_committer_come_from_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*command: str) -> str:
        people = ["-c", "user.name=N", "-c", "user.email=12345+naledi@users.noreply.github.com"]
        done = subprocess.run(["git", *people, *command], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "-m", "one", "--author", "T <thandi@sebenza.example>")
    monkeypatch.chdir(tmp_path)

    assert deploy.people_of(git("rev-parse", "HEAD")) == ("thandi@sebenza.example", "naledi")
    assert deploy.people_of(SHA) == (None, None)


def test_a_short_key_signs_nothing() -> None:
    with pytest.raises(deploy.Stop, match="SEBENZA_ATTESTATION_KEY"):
        deploy.sign({}, "k" * 31)


APPROVED, REJECTED = {"chosen_options": ["Approve"]}, {"chosen_options": ["Reject"]}


@pytest.mark.parametrize(
    ("state", "questions", "code"),
    [
        ("success", [], 0),
        ("success", [APPROVED], 0),
        ("failed", [], 1),
        ("failed", [APPROVED], 1),
        ("failed", [{"chosen_options": None}], 1),
        ("failed", [{}], 1),
        ("failed", [REJECTED], 2),
        ("failed", [APPROVED, REJECTED], 2),
    ],
)
def test_the_exit_code_is_the_outcome(state: str, questions: list[dict[str, Any]], code: int) -> None:
    assert deploy.outcome(state, questions) == code


def changed(flag: str, value: str | None) -> list[str]:
    """FLAGS with one replaced, or taken away."""
    pairs = dict(zip(FLAGS[::2], FLAGS[1::2], strict=True)) | ({flag: value} if value is not None else {})
    if value is None:
        pairs.pop(flag)
    return [part for pair in pairs.items() for part in pair]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (changed("--environment", None), "--environment is None"),
        (changed("--environment", "../x"), "--environment is '../x'"),
        (changed("--strategy", "yolo"), "--strategy is 'yolo'"),
        (changed("--sha", "v1.1.0"), "--sha is 'v1.1.0'"),
        (changed("--sha", SHA[:12]), "--sha is"),
        (changed("--pipeline-id", None), "--pipeline-id is None"),
        (changed("--pipeline-id", "a b"), "--pipeline-id is 'a b'"),
        (changed("--airflow-url", "ftp://x"), "--airflow-url is 'ftp://x'"),
        (changed("--airflow-url", "http://ci:secret@x"), "--airflow-url is"),
        (changed("--conf", "version=1"), "--conf is 'version=1'"),
        (changed("--conf", "7"), "--conf is '7'"),
        (changed("--conf", '{"version": "v1"}'), 'has a "version"'),
        (changed("--poll", "soon"), "--poll"),
        ([*FLAGS, "--now"], "unrecognized arguments: --now"),
        ([*FLAGS, "--env", "production"], "unrecognized arguments"),
    ],
)
def test_bad_usage_has_a_code_of_its_own(flags: list[str], expected: str) -> None:
    code, output = script.run(flags, VARIABLES)
    assert (code, expected in output) == (3, True), output
    assert "Traceback" not in output


def test_a_missing_password_is_named() -> None:
    variables = {name: value for name, value in VARIABLES.items() if "PASSWORD" not in name}
    code, output = script.run(FLAGS, variables)
    assert (code, "SEBENZA_AIRFLOW_PASSWORD is not set" in output) == (3, True), output


def test_an_airflow_that_does_not_answer_is_no_outcome() -> None:
    code, output = script.run(FLAGS, VARIABLES)
    assert (code, "http://127.0.0.1:9 does not answer" in output) == (4, True), output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    "variables",
    [
        {"CI_COMMIT_SHA": SHA, "CI_PIPELINE_ID": "17", "CI_PIPELINE_URL": "https://gitlab.example/17"},
        {
            "GITHUB_SHA": SHA,
            "GITHUB_RUN_ID": "17",
            "GITHUB_SERVER_URL": "https://gitlab.example",
            "GITHUB_REPOSITORY": "team/app",
        },
    ],
    ids=["gitlab", "github"],
)
def test_the_ci_systems_own_variables_are_enough(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SEBENZA_SHA", "CI_COMMIT_SHA", "GITHUB_SHA", "CI_PIPELINE_ID", "GITHUB_RUN_ID", "CI_PIPELINE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**VARIABLES, **variables, "SEBENZA_ENVIRONMENT": "production", "SEBENZA_SHA": ""}.items():
        monkeypatch.setenv(name, value)

    found = deploy.parse([])

    assert (found.sha, found.pipeline_id, found.strategy) == (SHA, "17", "blue_green")
    assert found.pipeline_url.startswith("https://gitlab.example/")
    assert found.conf == {"version": SHA}, "a tag may move between the tests and the deployment"


def test_nothing_that_a_server_says_is_a_command_of_the_ci_system(capsys: pytest.CaptureFixture[str]) -> None:
    console = deploy.Console()
    console.hide(PASSWORD, None, "")
    console.say(f"::add-mask::x\r::error::y\n::warning::\x1b[31m{PASSWORD}")
    lines = capsys.readouterr().out.splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in lines)
    assert "\x1b" not in "".join(lines)
    assert lines[-1].endswith("***")


def test_its_libraries_are_the_locks() -> None:
    header = re.search(r"^# dependencies = (\[.*\])$", script.SCRIPT.read_text(), re.MULTILINE)
    assert header is not None
    lock = (paths.CHECKOUT / "requirements.txt").read_text().splitlines()
    assert [pin for pin in json.loads(header.group(1)) if pin not in lock] == []


def test_help_names_every_exit_code() -> None:
    code, output = script.run(["--help"], {})
    assert code == 0
    for number in (deploy.SUCCESS, deploy.FAILURE, deploy.REJECTED, deploy.NOT_STARTED, deploy.UNKNOWN):
        assert re.search(rf"^  {number}  \S", output, re.MULTILINE)
