"""The probe sees what a DAG file must not do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.dags.conftest import INVENTORY, probe

pytestmark = pytest.mark.timeout(300)

_DAG = """
from airflow.sdk import dag
from datetime import UTC, datetime

@dag(schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC))
def sample():
    pass

sample()
"""


@pytest.mark.long
def test_sees_what_a_file_does_outside(tmp_path: Path) -> None:
    folder = tmp_path / "dags"
    folder.mkdir()
    (folder / "clean.py").write_text(_DAG)
    (folder / "writes.py").write_text(f"{_DAG}\nopen({str(tmp_path / 'written')!r}, 'w').close()\n")
    (folder / "connects.py").write_text(f"{_DAG}\nimport socket\nsocket.socket().connect_ex(('127.0.0.1', 1))\n")
    (folder / "starts.py").write_text(f"{_DAG}\nimport subprocess\nsubprocess.run(['true'])\n")
    (folder / "loads.py").write_text(f"{_DAG}\nimport matplotlib\n")

    report = probe(folder, INVENTORY, tmp_path / "home")

    seen = "\n".join(report.outside)
    assert str(tmp_path / "written") in seen
    assert "socket.connect" in seen
    assert "subprocess.Popen" in seen
    assert "matplotlib" in report.heavy_modules
    assert len(report.seconds) == 5


@pytest.mark.long
def test_sees_a_dag_that_changes_with_every_parse(tmp_path: Path) -> None:
    folder = tmp_path / "dags"
    folder.mkdir()
    (folder / "moves.py").write_text(_DAG.replace("datetime(2025, 1, 1, tzinfo=UTC)", "datetime.now(tz=UTC)"))

    first, second = (probe(folder, INVENTORY, tmp_path / home).dag_hashes for home in ("one", "two"))

    assert first != second


@pytest.mark.long
def test_a_clean_file_is_clean(tmp_path: Path) -> None:
    folder = tmp_path / "dags"
    folder.mkdir()
    (folder / "clean.py").write_text(_DAG)

    report = probe(folder, INVENTORY, tmp_path / "home")

    assert probe(folder, INVENTORY, tmp_path / "another").dag_hashes == report.dag_hashes
    assert report.outside == []
    assert report.heavy_modules == []
    assert set(report.dag_hashes) == {"sample"}
