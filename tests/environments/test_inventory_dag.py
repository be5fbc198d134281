"""The DAG file that reports bad environment files, as Airflow's own DagBag sees it."""

from __future__ import annotations

from pathlib import Path

import pytest

DAG_FILE = Path(__file__).resolve().parents[2] / "dags" / "environments" / "inventory.py"

OTHER_DAG_FILE = '''
"""A DAG for each environment."""
from airflow.sdk import dag, task
from sebenza_ops.environments.inventory import environments_with

for environment in environments_with("blue_green"):

    @dag(dag_id=f"example.{environment.name}", schedule=None)
    def example():
        @task
        def nothing() -> None:
            pass

        nothing()

    example()
'''


@pytest.fixture
def bag(files, tmp_path, monkeypatch):
    """Return a function that parses the reporting file beside a file that makes a DAG per environment."""
    monkeypatch.setenv("SEBENZA_ENVIRONMENTS", str(files.directory))
    folder = tmp_path / "dags"
    folder.mkdir()
    (folder / "inventory.py").write_text(DAG_FILE.read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "example.py").write_text(OTHER_DAG_FILE, encoding="utf-8")

    def parse():
        from airflow.dag_processing.dagbag import DagBag

        return DagBag(dag_folder=str(folder))

    return parse


def test_good_files_are_no_import_error(bag):
    parsed = bag()
    assert parsed.import_errors == {}
    assert sorted(parsed.dags) == ["example.development", "example.production", "example.staging"]


def test_bad_files_are_one_import_error_that_names_exactly_them(bag, files):
    files.edit("staging", "data: snapshot", "data: stolen")

    parsed = bag()

    assert [Path(file).name for file in parsed.import_errors] == ["inventory.py"]
    (message,) = parsed.import_errors.values()
    assert "environments without DAGs until their files are corrected: staging.yaml" in message
    assert "database.data" in message
    assert "production.yaml" not in message
    assert sorted(parsed.dags) == ["example.development", "example.production"]


def test_the_import_error_goes_away_when_the_file_is_corrected(bag, files):
    files.edit("staging", "data: snapshot", "data: stolen")
    assert bag().import_errors
    files.edit("staging", "data: stolen", "data: snapshot")
    parsed = bag()
    assert parsed.import_errors == {}
    assert "example.staging" in parsed.dags
