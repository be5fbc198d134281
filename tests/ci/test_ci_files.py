"""The ready workflow and job: they can be read, use what the script has, and collect results that it takes."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import paths
from lab.waiting import scaled
from sebenza_ops.deployment.attestation import verify
from tests.ci import script

deploy = script.load()
FILES = ("github-actions.yml", "gitlab-ci.yml")
SHA, HEAD, KEY = "a" * 40, "b" * 40, "k" * 32


def document(name: str) -> dict[Any, Any]:
    found: dict[Any, Any] = yaml.safe_load((script.CI_DIRECTORY / name).read_text())
    return found


def github_steps() -> dict[str, dict[str, Any]]:
    steps = document("github-actions.yml")["jobs"]["deploy"]["steps"]
    return {step["name"]: step for step in steps if "name" in step}


def gitlab_lines() -> list[str]:
    return list(document("gitlab-ci.yml")["deploy_production"]["script"])


def command_line(name: str) -> str:
    """How the file calls the script."""
    if name == "gitlab-ci.yml":
        return gitlab_lines()[-1]
    return str(github_steps()["Deploy"]["run"])


@pytest.mark.parametrize("name", FILES)
def test_the_script_is_called_with_flags_that_it_has(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEBENZA_AIRFLOW_PASSWORD", "x")
    monkeypatch.setenv("SEBENZA_AIRFLOW_URL", "https://airflow.example.com")
    flags = command_line(name).partition("ci/deploy.py ")[2].split()
    arguments = deploy.parse([*flags, "--sha", SHA, "--pipeline-id", "17"])
    assert (arguments.environment, arguments.strategy, arguments.attestation) == (
        "production",
        "blue_green",
        "gates.json",
    )


@pytest.mark.parametrize("name", FILES)
def test_every_variable_that_is_to_be_set_is_one_of_the_scripts(name: str) -> None:
    text, source = (script.CI_DIRECTORY / name).read_text(), script.SCRIPT.read_text()
    named = set(re.findall(r"\b(?:SEBENZA|AWS)_[A-Z_]+\b", text)) - {"SEBENZA_GITLAB_TOKEN"}
    assert len(named) > 5
    assert {variable for variable in named if variable not in source} == set()


def test_every_secret_and_variable_of_the_workflow_is_explained() -> None:
    header = (script.CI_DIRECTORY / "github-actions.yml").read_text().partition("\nname:")[0]
    for name, value in github_steps()["Deploy"]["env"].items():
        assert name in header
        assert re.fullmatch(rf"\$\{{\{{ (vars|secrets)\.{name} \}}\}}", value)


def program(directory: Path, name: str, text: str) -> None:
    file = directory / name
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)


def collected(directory: Path, steps: str, variables: dict[str, str]) -> Any:
    """What the file's own steps write, attested, signed, and read by Airflow's side."""
    environment = {"PATH": f"{directory}:{os.environ['PATH']}", **variables}
    shell = ["bash", "-euo", "pipefail", "-c", steps]
    subprocess.run(shell, cwd=directory, env=environment, check=True, timeout=scaled(20))
    arguments = argparse.Namespace(
        attestation=str(directory / "gates.json"),
        sha=SHA,
        version="v1.1.0",
        pipeline_id="17",
        pipeline_url=None,
        requested_by="thandi",
        expires_in=60.0,
    )
    now = datetime.now(UTC)
    return verify(deploy.sign(deploy.attestation(arguments, now), KEY), KEY, SHA, now)


def review(login: str, state: str, commit: str = HEAD) -> dict[str, Any]:
    return {"user": {"login": login}, "state": state, "commit_id": commit}


@pytest.mark.parametrize(
    ("reviews", "verdict", "reviewers"),
    [
        ([review("sipho", "APPROVED")], "pass", ("sipho",)),
        ([review("sipho", "APPROVED"), review("sipho", "COMMENTED")], "pass", ("sipho",)),
        ([review("sipho", "APPROVED"), review("sipho", "CHANGES_REQUESTED")], "fail", ()),
        ([review("sipho", "APPROVED", "c" * 40)], "fail", ()),
        ([], "fail", ()),
    ],
    ids=["approved", "commented later", "took it back", "another commit", "nobody"],
)
@pytest.mark.parametrize(("tests", "tests_verdict"), [("success", "pass"), ("failure", "fail"), ("skipped", "no_data")])
def test_the_workflow_collects_what_github_says(
    tmp_path: Path, reviews: list[Any], verdict: str, reviewers: tuple[str, ...], tests: str, tests_verdict: str
) -> None:
    pulls = [{"number": 7, "merged_at": "2026-11-24T10:00:00Z", "head": {"sha": HEAD}, "user": {"login": "naledi"}}]
    (tmp_path / "pulls").write_text(json.dumps(pulls))
    (tmp_path / "reviews").write_text(json.dumps(reviews))
    # GitHub's own client, which answers from files: the pull requests of the commit, and their reviews.
    program(tmp_path, "gh", 'case "$2" in */reviews*) cat reviews ;; */commits/*/pulls) cat pulls ;; *) exit 1 ;; esac')

    found = collected(
        tmp_path,
        github_steps()["Collect the results of the gates"]["run"],
        {
            "GITHUB_REPOSITORY": "team/app",
            "GITHUB_SHA": SHA,
            "TESTS": tests,
            "TESTS_SUMMARY": "812 tests",
            "RUN_URL": "https://github.example/team/app/actions/runs/17",
        },
    )

    assert found.gates["review_approved"].verdict == verdict
    assert found.gates["tests_passed"].verdict == tests_verdict
    assert (found.author, found.reviewers) == ("naledi", reviewers)


def test_a_commit_without_a_pull_request_was_reviewed_by_nobody_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "gh", "echo '[]'")
    program(tmp_path, "git", "printf 'naledi@sebenza.example\\nnaledi@sebenza.example\\n'")
    variables = {
        "GITHUB_REPOSITORY": "team/app",
        "GITHUB_SHA": SHA,
        "TESTS": "success",
        "RUN_URL": "https://ci.example",
    }
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = collected(tmp_path, github_steps()["Collect the results of the gates"]["run"], variables)
    assert found.gates["review_approved"].verdict == "no_data"
    assert found.author == "naledi@sebenza.example"


@pytest.mark.parametrize(
    ("approved_by", "verdict"), [([{"user": {"username": "sipho"}}], "pass"), ([], "fail")], ids=["approved", "nobody"]
)
def test_the_job_collects_what_gitlab_says(tmp_path: Path, approved_by: list[Any], verdict: str) -> None:
    page = "https://gitlab.example/team/app/-/merge_requests/7"
    merged = [{"iid": 7, "state": "merged", "author": {"username": "naledi"}, "web_url": page}]
    (tmp_path / "merge_requests").write_text(json.dumps(merged))
    (tmp_path / "approvals").write_text(json.dumps({"approved_by": approved_by}))
    program(
        tmp_path,
        "curl",
        'for last; do :; done; case "$last" in */approvals) cat approvals ;; *) cat merge_requests ;; esac',
    )

    found = collected(
        tmp_path,
        "\n".join(gitlab_lines()[:-1]),
        {
            "SEBENZA_GITLAB_TOKEN": "token",
            "CI_API_V4_URL": "https://gitlab.example/api/v4",
            "CI_PROJECT_ID": "3",
            "CI_COMMIT_SHA": SHA,
            "CI_PIPELINE_URL": "https://gitlab.example/team/app/-/pipelines/17",
        },
    )

    assert found.gates["review_approved"].verdict == verdict
    assert found.gates["review_approved"].url == page
    assert found.gates["tests_passed"].verdict == "pass"
    assert found.author == "naledi"


def test_the_page_has_the_scripts_flags_variables_and_exit_codes() -> None:
    page, source = (paths.CHECKOUT / "docs" / "ci.md").read_text(), script.SCRIPT.read_text()
    flags, variables = set(re.findall(r"`(--[a-z-]+)", page)), set(re.findall(r"`((?:SEBENZA|AWS)_[A-Z_]+)`", page))
    assert len(flags) > 10
    assert {name for name in flags | variables if name not in source} == set()
    codes = range(deploy.UNKNOWN + 1)
    assert [code for code in codes if f"\n| {code} | " not in page] == []


def test_the_page_has_the_messages_as_the_script_says_them() -> None:
    page, source = (paths.CHECKOUT / "docs" / "ci.md").read_text(), script.SCRIPT.read_text()
    rows = page.partition("## When it does not work")[2].splitlines()
    messages = [row.split("`")[1] for row in rows if row.startswith("| `")]
    assert len(messages) > 5
    parts = [part.strip() for message in messages for part in message.split("…")]
    assert [part for part in parts if part not in source and not part.startswith("was not started")] == []
