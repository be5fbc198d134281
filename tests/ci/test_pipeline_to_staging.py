"""From a pipeline to a host: the script attests, uploads to real storage, and deploys to the lab's staging."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lab import attest
from lab.airflow.client import AirflowClient
from lab.airflow.stack import LocalAirflow
from lab.inventory import storage_client
from lab.pipeline import ci_variables
from lab.releases import resolve
from lab.secrets import lab_secrets
from sebenza_ops.deployment.attestation import verify
from sebenza_ops.deployment.release import attestation_key
from tests.ci import script

pytestmark = [pytest.mark.lab, pytest.mark.airflow, pytest.mark.slow, pytest.mark.timeout(400)]

DAG, VERSION = "deploy_blue_green.staging", "v1.1.0"
GATES = {"tests_passed": {"verdict": "pass", "detail": "812 tests", "url": "https://ci.example/17/tests"}}


@pytest.fixture(scope="module")
def operator(estate: Any, airflow: LocalAirflow) -> Iterator[AirflowClient]:
    """Staging runs v1.0.0 before and after."""
    estate.reset("staging")
    with airflow.client("operator") as client:
        yield client
    attest.remove(resolve(VERSION))
    estate.reset("staging")


@pytest.fixture
def variables(operator: AirflowClient) -> dict[str, str]:
    return {
        **ci_variables(),
        "SEBENZA_ENVIRONMENT": "staging",
        "SEBENZA_SHA": resolve(VERSION),
        "SEBENZA_VERSION": VERSION,
        "SEBENZA_POLL": "1",
        "GITLAB_USER_LOGIN": "thandi",
    }


@pytest.fixture
def gates(tmp_path: Path) -> str:
    file = tmp_path / "gates.json"
    file.write_text(json.dumps({"gates": GATES, "author": "naledi", "reviewers": ["sipho"]}))
    return str(file)


def stored(sha: str) -> bytes:
    body: bytes = storage_client().get_object(Bucket=attest.BUCKET, Key=attestation_key(sha))["Body"].read()
    return body


def test_a_pipeline_deploys_an_attested_commit_once(
    variables: dict[str, str], gates: str, operator: AirflowClient, estate: Any
) -> None:
    sha, pipeline = resolve(VERSION), f"17-{time.time_ns()}"
    before = estate.live_colors("staging")
    arguments = ["--pipeline-id", pipeline, "--attestation", gates]

    code, output = script.run(arguments, variables)

    assert code == 0, output
    assert f"attested {sha[:12]}: releases/{sha}/attestation.json" in output
    assert "switch_prove_and_bake: success" in output
    assert f"{VERSION}-{sha[:12]}" in output, "the outcome names no release"
    after = estate.live_colors("staging")
    assert set(after.values()).isdisjoint(before.values())
    document = stored(sha)
    found = verify(document, lab_secrets().attestation_key, sha, datetime.now(UTC))
    assert (found.author, found.requested_by, found.pipeline.id) == ("naledi", "thandi", pipeline)

    code, output = script.run(arguments, variables)

    assert (code, "it is followed" in output) == (0, True), output
    assert stored(sha) == document, "a retry attests nothing anew"
    runs = [run for run in operator.dag_runs(DAG, limit=100) if pipeline in run["dag_run_id"]]
    assert len(runs) == 1


def test_another_pipeline_with_what_is_live_succeeds_and_changes_nothing(
    variables: dict[str, str], gates: str, estate: Any
) -> None:
    before = estate.live_colors("staging")
    code, output = script.run(["--pipeline-id", f"18-{time.time_ns()}", "--attestation", gates], variables)
    assert (code, "nothing to do" in output) == (0, True), output
    assert estate.live_colors("staging") == before


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong-secret"}, "the attestation could not be stored"),
        ({"SEBENZA_STORAGE_BUCKET": "elsewhere"}, "the attestation could not be stored as elsewhere/releases/"),
        ({"AWS_CA_BUNDLE": "/etc/ssl/certs/ca-certificates.crt"}, "CERTIFICATE_VERIFY_FAILED"),
        ({"SEBENZA_ATTESTATION_KEY": ""}, "SEBENZA_ATTESTATION_KEY is missing"),
    ],
    ids=["secret", "bucket", "certificate", "key"],
)
def test_what_can_not_be_attested_is_not_started(
    variables: dict[str, str], gates: str, operator: AirflowClient, changes: dict[str, str], expected: str
) -> None:
    pipeline = f"19-{time.time_ns()}"
    code, output = script.run(["--pipeline-id", pipeline, "--attestation", gates], {**variables, **changes})
    assert (code, expected in output) == (3, True), output
    assert "Traceback" not in output
    assert [run for run in operator.dag_runs(DAG, limit=100) if pipeline in run["dag_run_id"]] == []
