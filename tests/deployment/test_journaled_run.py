"""A run that keeps a journal takes its fencing tokens from the hosts; good releases are kept on them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sebenza_ops.changes import ChangeRefusedError, ChangeRun, holder_word
from sebenza_ops.deployment.good_releases import forget_good, remember_good
from sebenza_ops.environments.models import Environment
from sebenza_ops.ledger import Holder
from sebenza_ops.ledger.journal import open_journal
from sebenza_ops.systems.application_hosts import ApplicationHost
from sebenza_ops.systems.fencing import raise_tokens
from sebenza_ops.systems.ssh import Fence, open_session
from tests.deployment.estate import NEW, OLD
from tests.systems.conftest import SSH_CONNECTION
from tests.systems.estates import changed
from tests.systems.sshd import SshServer

pytestmark = pytest.mark.integration

ROLLBACK = Holder("rollback.staging", "manual__2", "thandi")
TTL = 120.0


@pytest.fixture
def environment(sshd: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    monkeypatch.setenv("SEBENZA_JOURNAL", str(tmp_path / "journal"))
    paths = {"state_dir": str(tmp_path / "state"), "marker_dir": str(tmp_path / "markers")}
    host = sshd.host("staging")
    return changed("staging", hosts=(host,), application=paths).model_copy(update={"ssh_conn_id": SSH_CONNECTION})


def journaled(environment: Environment, holder: Holder = ROLLBACK) -> ChangeRun:
    return ChangeRun(open_journal(holder.dag_id, holder.run_id), environment, holder)


def hosts_have_seen(environment: Environment, token: int, holder: Holder) -> None:
    raise_tokens(environment, environment.hosts, Fence(environment.name, token, holder_word(holder)))


def test_a_journal_that_begins_in_mid_run_counts_on_from_what_the_hosts_saw_of_it(environment: Environment) -> None:
    hosts_have_seen(environment, 57, ROLLBACK)
    first = journaled(environment).begin_attempt("rollback", TTL)
    assert first.token > 1057
    # The next attempt has a token of its own, and does not leap again.
    assert journaled(environment).begin_attempt("rollback", TTL).token == first.token + 1


def test_a_run_that_another_one_has_overtaken_changes_nothing_more(environment: Environment) -> None:
    hosts_have_seen(environment, 57, Holder("deploy_blue_green.staging", "manual__3", "sipho"))
    with pytest.raises(ChangeRefusedError, match=r"deploy_blue_green\.staging/manual__3 has changed staging since"):
        journaled(environment).begin_attempt("rollback", TTL)


def test_no_token_is_guessed_when_no_host_tells(environment: Environment) -> None:
    gone = environment.hosts[0].model_copy(update={"ssh": environment.hosts[0].ssh.model_copy(update={"port": 1})})
    with pytest.raises(ChangeRefusedError, match="no host tells"):
        journaled(environment.model_copy(update={"hosts": (gone,)})).begin_attempt("rollback", TTL)


def test_taking_over_leaps_over_what_the_ledger_may_have_given_out(environment: Environment) -> None:
    lease = journaled(environment).take_over("rollback", "orders are lost", TTL, 57)
    assert lease.token > 1057


def test_good_releases_are_on_the_host_and_a_bad_one_is_taken_off(environment: Environment, tmp_path: Path) -> None:
    run = journaled(environment)
    run.take_over("rollback", "orders are lost", TTL, 0)
    line = tmp_path / "markers" / "good-releases"
    line.parent.mkdir()
    # From before there was a line: what was good last is still known.
    (line.parent / "last-good-release").write_text(f"{OLD}\n")
    with open_session(environment.hosts[0], SSH_CONNECTION) as session:
        for _ in range(2):
            remember_good(ApplicationHost(environment, session), run, NEW)
    assert line.read_text() == f"{NEW} {OLD}\n"
    forget_good(run, environment.hosts, NEW)
    assert line.read_text() == f"{OLD}\n"
