"""What the demo says before it deploys; the demo itself is run whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from lab import demo, paths
from lab.load.capacity import Capacity, Step, write_kept
from lab.load.generator import LoadGenerator
from lab.waiting import LabError
from tests.lab.failing_server import FailingServer

RATE = 60.0
CAPACITY = Capacity(120, 800, "runs", 0.0, "boot", 0.1, 0.5, (Step(120, 360, 0, 0, 0, 0.02, 0.01),))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FailingServer]:
    with FailingServer(tmp_path) as running:
        yield running


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A short lead-in, and the file of what was measured before."""
    monkeypatch.setattr(demo, "LEAD_SECONDS", 1.0)
    monkeypatch.setattr(paths, "CAPACITY_FILE", tmp_path / "capacity.json")
    write_kept(paths.CAPACITY_FILE, CAPACITY)
    return paths.CAPACITY_FILE


def load(server: FailingServer, *request_paths: str) -> LoadGenerator:
    return LoadGenerator(
        load_balancers={"lb1": server.address},
        ca_file=server.ca_file,
        rate=RATE,
        timeout_seconds=3,
        request_paths=request_paths,
    )


def test_a_clean_lead_in_goes_on(server: FailingServer, kept: Path) -> None:
    with load(server, "/ok") as users:
        demo.lead_in(users, RATE, CAPACITY)
        assert users.progress()["requests"] >= RATE
    assert kept.exists()


@pytest.mark.parametrize(
    ("path", "why"), [("/error", r"[1-9]\d* of \d+ failed"), ("/slow", r"0 of \d+ failed and [1-9]\d* waited")]
)
def test_a_lead_in_that_is_not_clean_ends_before_anything_is_deployed(
    server: FailingServer, kept: Path, path: str, why: str
) -> None:
    with load(server, "/ok", path) as users, pytest.raises(LabError) as ended:
        demo.lead_in(users, RATE, CAPACITY)
    assert re.search(why, str(ended.value))
    assert "Nothing was deployed" in str(ended.value)
    assert not kept.exists(), "the next try would believe what is not true any more"
    assert "the estate serves 120 requests a second" in str(ended.value)


def test_every_key_of_the_result_is_documented() -> None:
    text = (paths.CHECKOUT / "docs" / "lab.md").read_text()
    rows = "\n".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| `"))
    assert [field.name for field in fields(demo.DemoResult) if f"`{field.name}`" not in rows] == []
