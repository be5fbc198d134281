"""Break-glass for real: a procedure runs in a private Airflow, and a person is asked at a terminal."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from lab import paths
from lab.waiting import Patience, scaled
from sebenza_ops.ledger import Ledger
from sebenza_ops.ledger.journal import pending_journals, read_journal
from sebenza_ops.terminal import person_at_terminal

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]

DAG, REASON = "rehearsal.staging", "the quarter's rehearsal"
COMMAND = [sys.executable, "-m", "sebenza_ops.break_glass", DAG, "--reason", REASON]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that is prepared by the first test, for all."""
    return tmp_path_factory.mktemp("break-glass") / "home"


@pytest.fixture
def variables(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    file = tmp_path / "credentials.yaml"
    file.write_text(
        "sebenza_staging_ssh: {conn_type: ssh}\n"
        f"ops_ledger: {{conn_type: sqlite, host: {tmp_path}/ledger/ledger.db}}\n"
    )
    file.chmod(0o600)
    monkeypatch.setenv("SEBENZA_JOURNAL", str(tmp_path / "journal"))
    return {
        "SEBENZA_BREAK_GLASS_HOME": str(home),
        "SEBENZA_BREAK_GLASS_CREDENTIALS": str(file),
        "SEBENZA_DAGS": str(paths.CHECKOUT / "tests" / "break_glass" / "dags"),
        "SEBENZA_JOURNAL": str(tmp_path / "journal"),
        "PYTHONPATH": str(paths.CHECKOUT / "plugins"),
    }


class Session:
    """A command with a terminal of its own."""

    def __init__(self, argv: list[str], variables: Mapping[str, str]) -> None:
        self.text = ""
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.execve(argv[0], argv, {**os.environ, **variables})

    def until(self, text: str, timeout_seconds: float = 120) -> None:
        # What it shows is its progress.
        patience = Patience(repr(text), timeout_seconds, progress=lambda: f"{len(self.text)} characters shown")
        while text not in self.text:
            assert not patience.is_over(), f"{patience.told()}; the terminal shows:\n{self.text}"
            if not self._read(1.0):
                break
        assert text in self.text, f"{text!r} did not come; the terminal shows:\n{self.text}"

    def answer(self, line: str) -> None:
        os.write(self._terminal, f"{line}\n".encode())

    def exit_code(self) -> int:
        while self._read(scaled(120)):
            continue
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read(self, seconds: float) -> bool:
        if not select.select([self._terminal], [], [], seconds)[0]:
            return True
        try:
            part = os.read(self._terminal, 4096)
        except OSError:
            return False
        self.text += part.decode(errors="replace")
        return bool(part)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    (tmp_path / "ledger").mkdir()
    found = Ledger.open(f"sqlite:///{tmp_path}/ledger/ledger.db")
    found.migrate()
    return found


def actions(ledger: Ledger) -> list[str]:
    return [entry.action for entry in reversed(ledger.audit.entries())]


def test_a_decision_is_asked_at_the_terminal_and_recorded(variables: dict[str, str], ledger: Ledger) -> None:
    session = Session([*COMMAND, "--conf", '{"count": 2}'], variables)
    session.until("Type 'Go on'")
    assert "Go on with 2?" in session.text
    assert "**2 rows**" in session.text
    session.answer("Go on")
    session.until("Why:")
    session.answer("it is only a rehearsal")

    assert session.exit_code() == 0, session.text
    assert "break-glass: success" in session.text
    assert "  Plan for staging:" in session.text
    assert "    app1: nothing" in session.text
    assert actions(ledger) == ["break_glass.started", "decision.approved", "break_glass.ended"]
    approved = ledger.audit.entries(action="decision.approved")[0]
    person = person_at_terminal()
    assert approved.actor == person
    # The run's own tasks know the person too, and not Airflow's "dag_test".
    assert f"started by {person}" in approved.subject
    assert (approved.detail["reason"], approved.detail["asked_at"]) == ("it is only a rehearsal", "terminal")
    started = ledger.audit.entries(action="break_glass.started")[0]
    assert (started.actor, started.detail["reason"], started.detail["conf"]["count"]) == (person, REASON, 2)
    assert f"started by {person}" in started.subject


@pytest.mark.long
def test_another_word_than_the_option_is_a_no(variables: dict[str, str], ledger: Ledger) -> None:
    session = Session(COMMAND, variables)
    session.until("Type 'Go on'")
    session.answer("yes")
    assert session.exit_code() == 1
    assert "has rejected" in session.text
    assert actions(ledger) == ["break_glass.started", "decision.rejected", "break_glass.ended"]


def test_without_a_terminal_nobody_is_asked_which_means_no_and_a_ledger_that_is_down_has_it_later(
    variables: dict[str, str], tmp_path: Path
) -> None:
    done = subprocess.run(
        COMMAND,
        env={**os.environ, **variables},
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=scaled(240),
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "there is no terminal to ask at" in done.stdout
    assert "as the ledger is down" in done.stdout
    kept = read_journal(pending_journals()[0])
    assert actions(kept) == ["break_glass.started", "decision.missing", "break_glass.ended"]
    assert not (tmp_path / "ledger").exists()


def test_an_unknown_key_is_refused_before_there_is_a_run(variables: dict[str, str], ledger: Ledger) -> None:
    argv = [*COMMAND, "--conf", '{"cuont": 1}']
    done = subprocess.run(argv, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "refused, nothing was touched" in done.stdout
    assert "did you mean 'count'" in done.stdout
    assert actions(ledger) == []
