"""Every DAG keeps the contract: the rules of `contract.py` over all DAGs that the files make."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.dags.conftest import DAGS_FOLDER, INVENTORY, probe
from tests.dags.contract import RULES, Rule, violations
from tests.dags.parse_probe import ParseReport

pytestmark = pytest.mark.timeout(300)


def test_there_are_dags(dags: dict[str, Any]) -> None:
    assert dags


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_all_dags_keep_the_rule(dags: dict[str, Any], rule: Rule) -> None:
    found = [line for dag in dags.values() for line in violations(dag, (rule,))]

    assert not found, "\n".join(found)


def test_no_file_fails_to_import(parse_report: ParseReport) -> None:
    assert not parse_report.import_errors


def test_parsing_reaches_nothing_outside(parse_report: ParseReport) -> None:
    assert not parse_report.outside, "\n".join(parse_report.outside)


def test_parsing_loads_no_heavy_library(parse_report: ParseReport) -> None:
    assert not parse_report.heavy_modules


def test_parse_time_is_reported(parse_report: ParseReport, record_property: Any, capsys: Any) -> None:
    record_property("parse_seconds_per_file", parse_report.seconds)

    with capsys.disabled():
        slowest = max(parse_report.seconds, key=lambda file: parse_report.seconds[file])
        mean = sum(parse_report.seconds.values()) / len(parse_report.seconds)
        print(f"\n  {mean:.3f} s per DAG file; the slowest is {slowest}: {parse_report.seconds[slowest]:.3f} s")
    assert set(parse_report.seconds) == {str(file.relative_to(DAGS_FOLDER)) for file in DAGS_FOLDER.rglob("*.py")}


def test_two_parses_make_the_same_dags(parse_report: ParseReport, tmp_path: Path) -> None:
    again = probe(DAGS_FOLDER, INVENTORY, tmp_path)

    assert again.dag_hashes == parse_report.dag_hashes


def test_one_bad_environment_hides_no_other(parse_report: ParseReport, tmp_path: Path) -> None:
    environments = tmp_path / "environments"
    shutil.copytree(INVENTORY, environments)
    file = environments / "staging.yaml"
    file.write_text(file.read_text().replace("kind: environment", "kind: enviroment"))

    report = probe(DAGS_FOLDER, environments, tmp_path / "home")

    others = {dag_id for dag_id in parse_report.dag_hashes if not dag_id.endswith(".staging")}
    assert set(report.dag_hashes) == others
    assert len(report.import_errors) == 1
    assert "staging.yaml" in next(iter(report.import_errors.values()))
