"""What break-glass refuses before it starts anything, each in a line that says what to do."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from lab import break_glass as lab_break_glass
from lab import paths
from sebenza_ops.break_glass.command import main, read_request, shown
from sebenza_ops.break_glass.credentials import check_credentials
from sebenza_ops.break_glass.errors import RefusedError
from sebenza_ops.break_glass.home import Home
from sebenza_ops.break_glass.in_process import load_procedure
from sebenza_ops.break_glass.messages import Channel, Event, Request, read_events

DAG, REASON = "rollback.production", "orders are lost since noon"
REHEARSAL = paths.CHECKOUT / "tests" / "break_glass" / "dags" / "rehearsal.py"


def credentials(tmp_path: Path, text: str = "sebenza_production_ssh: {conn_type: ssh}\n", mode: int = 0o600) -> Path:
    file = tmp_path / "credentials.yaml"
    file.write_text(text)
    file.chmod(mode)
    return file


@pytest.mark.parametrize(
    ("dag_id", "conf", "reason", "message"),
    [
        (DAG, "{}", "", "a reason of at least 10 characters"),
        (DAG, "{}", "  too    short ", "a reason of at least 10 characters"),
        ("rollback", "{}", REASON, "is no procedure of an environment"),
        ("", "{}", REASON, "is no procedure of an environment"),
        ("../../etc/x.production", "{}", REASON, "is no procedure of an environment"),
        ("nothing.production", "{}", REASON, "there is no procedure 'nothing'"),
        (DAG, "{to: v1}", REASON, "CONF is no JSON"),
        (DAG, "[1]", REASON, "CONF must be a JSON object"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(dag_id: str, conf: str, reason: str, message: str) -> None:
    with pytest.raises(RefusedError, match=message):
        read_request(dag_id, conf, reason)


def test_the_reason_is_the_procedures_too_unless_the_conf_has_one() -> None:
    request = read_request(DAG, '{"to": "v1.0.0"}', f"  {REASON}\n")
    assert request.conf == {"reason": REASON, "to": "v1.0.0"}
    assert request.file.endswith("dags/deployment/rollback.py")
    assert read_request(DAG, '{"reason": "another one of its own"}', REASON).conf["reason"] == "another one of its own"


@pytest.mark.parametrize(
    ("mode", "refused"), [(0o600, False), (0o640, False), (0o644, True), (0o606, True), (0o660, True), (0o601, True)]
)
def test_credentials_that_others_can_reach_are_refused(tmp_path: Path, mode: int, refused: bool) -> None:
    file = credentials(tmp_path, mode=mode)
    if not refused:
        check_credentials(file, ["sebenza_production_ssh"])
        return
    with pytest.raises(RefusedError, match=f"chmod 600 {file}"):
        check_credentials(file, [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "no mapping of connection ids"),
        ("a: {password: s3cret", r"no valid YAML \(line"),
        ("other: {conn_type: ssh}", "lacks the connection sebenza_production_ssh"),
    ],
)
def test_credentials_that_do_not_serve_are_refused_and_never_shown(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RefusedError, match=message) as refused:
        check_credentials(credentials(tmp_path, text), ["sebenza_production_ssh"])
    assert "s3cret" not in str(refused.value)


def test_credentials_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="SEBENZA_BREAK_GLASS_CREDENTIALS"):
        check_credentials(tmp_path / "none.yaml", [])


def test_a_home_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", credentials(tmp_path))
    assert stat.S_IMODE(home.directory.stat().st_mode) == 0o700
    home.directory.chmod(0o750)
    with pytest.raises(RefusedError, match="chmod 700"):
        Home(tmp_path / "home", credentials(tmp_path))


def test_nothing_of_another_airflow_reaches_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "postgresql://airflow@db/airflow")
    monkeypatch.setenv("AIRFLOW_CONN_OPS_LEDGER", "sqlite:///srv/other.db")
    monkeypatch.delenv("SEBENZA_JOURNAL", raising=False)
    home = Home(tmp_path / "home", credentials(tmp_path))
    given = home.environment(tmp_path / "home" / "runs" / "one")
    assert given["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == f"sqlite:///{tmp_path}/home/runs/one/airflow.db"
    assert not [name for name in given if name.startswith("AIRFLOW_CONN_")]
    assert given["SEBENZA_JOURNAL"] == f"{tmp_path}/home/journal"


def test_the_lab_is_never_mixed_with_other_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = credentials(tmp_path)
    monkeypatch.setattr("lab.break_glass.paths.CONNECTIONS_FILE", there)
    monkeypatch.setattr("lab.break_glass.DEFAULT_FILE", tmp_path / "none")
    for name in ("SEBENZA_BREAK_GLASS_CREDENTIALS", "SEBENZA_ENVIRONMENTS"):
        monkeypatch.delenv(name, raising=False)
    assert lab_break_glass.lab_defaults()["SEBENZA_BREAK_GLASS_CREDENTIALS"] == str(there)
    for name in ("SEBENZA_BREAK_GLASS_CREDENTIALS", "SEBENZA_ENVIRONMENTS"):
        monkeypatch.setenv(name, "/somewhere/else")
        assert lab_break_glass.lab_defaults() == {}, f"{name} names other hosts, but the lab's were taken"
        monkeypatch.delenv(name)
    monkeypatch.setattr("lab.break_glass.DEFAULT_FILE", there)
    assert lab_break_glass.lab_defaults() == {}, "a machine with credentials of its own took the lab's"


def test_a_refusal_is_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SEBENZA_BREAK_GLASS_CREDENTIALS", str(credentials(tmp_path, mode=0o644)))
    assert main([DAG, "--reason", REASON]) == 2
    assert main(["rollback.nowhere", "--reason", REASON]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "is open to others (mode 0644)" in lines[0]
    assert "no environment 'nowhere'" in lines[1]


def test_what_the_run_tells_is_shown_task_by_task() -> None:
    reading, writing = os.pipe()
    channel = Channel(writing)
    channel.tell(Event("task", task="switch_back", state="failed", seconds=1.25, text="fenced off\nby another run"))
    channel.tell(Event("ended", state="failed", seconds=3.0, text="production: traffic stays", lines=["finish: …"]))
    os.close(writing)
    lines = [line for event in read_events(reading) for line in shown(event, 2.0)]
    assert lines[0].split() == ["2.0", "s", "switch_back", "failed", "in", "1.2", "s"]
    assert [line.strip() for line in lines[1:]] == [
        "fenced off",
        "by another run",
        "finish: …",
        "break-glass: failed after 3.0 s. production: traffic stays",
    ]
    # Nobody reads any more: the run goes on.
    channel.tell(Event("task", task="finish", state="success"))


@pytest.mark.parametrize(
    ("dag_id", "conf", "message"),
    [
        ("rehearsal.staging", {"reason": REASON, "count": 9}, "count"),
        ("rehearsal.staging", {"reason": REASON, "count": "2"}, "count"),
        ("rehearsal.staging", {}, "reason"),
        ("rehearsal.staging", {"reason": REASON, "cuont": 1}, "did you mean 'count'"),
        (
            "rehearsal.production",
            {"reason": REASON},
            "no procedure 'rehearsal.production'",
        ),
    ],
)
def test_what_the_procedure_does_not_take_is_refused(dag_id: str, conf: dict[str, object], message: str) -> None:
    request = Request(dag_id, str(REHEARSAL), conf, REASON, "thandi")
    with pytest.raises(RefusedError, match=message):
        load_procedure(request)


def test_a_procedure_that_is_no_emergency_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEBENZA_DAGS", str(REHEARSAL.parent))
    file = paths.CHECKOUT / "dags" / "deployment" / "deploy_blue_green.py"
    request = Request("deploy_blue_green.production", str(file), {"version": "v1"}, REASON, "thandi")
    expected = r"deploy_blue_green\.production is no emergency procedure.*rehearsal\.staging"
    with pytest.raises(RefusedError, match=expected):
        load_procedure(request)


def test_a_procedures_own_parameters_pass() -> None:
    conf = {"reason": REASON, "count": 3}
    assert load_procedure(Request("rehearsal.staging", str(REHEARSAL), conf, REASON, "thandi")).dag_id
