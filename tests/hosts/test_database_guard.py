"""A former primary asks the other site before it starts: on a real pair; the other one promoted, gone, a replica."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from sebenza_ops.systems.host_scripts import include_dir
from sebenza_ops.systems.reachability import https_target, look_from_here, tcp_target
from tests.postgres_pair import BIN, Server, as_owner, free_port, postgres_pair, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


@pytest.fixture
def pair() -> Iterator[tuple[Server, Server]]:
    with postgres_pair() as (first, second):
        first.query("CREATE ROLE sebenza_health LOGIN")
        yield first, second


def guard(
    server: Server, witness: str, seconds: int = 2, command: tuple[str, ...] = ("echo", "started")
) -> subprocess.CompletedProcess[str]:
    settings = {
        "GUARD_DATA": server.data,
        "GUARD_BIN": BIN,
        "GUARD_WITNESSES": witness,
        "GUARD_USER": "sebenza_health",
        "GUARD_SECONDS": seconds,
        "GUARD_ALONE_FILE": server.root / "start-alone",
    }
    script = (include_dir() / "hosts" / "database-guard.sh").read_text()
    words = [f"{name}={value}" for name, value in settings.items()]
    return as_owner(["env", *words, "sh", "-c", script, "guard", *command])


def is_replica(server: Server) -> bool:
    return (server.data / "standby.signal").exists()


def test_a_former_primary_starts_as_a_replica_while_the_other_one_is_promoted(pair: tuple[Server, Server]) -> None:
    old, new = pair
    witness = f"127.0.0.1:{new.port}"
    until(lambda: new.query("SELECT 1 FROM pg_roles WHERE rolname = 'sebenza_health'") == 1, "the role is there")
    old.stop()
    # Its replica has not been promoted: it is the primary, and starts as it.
    done = guard(old, witness, command=("env",))
    assert done.returncode == 0, done.stderr
    # What the server inherited would name its own connections to others.
    assert "PG" not in {line[:2] for line in done.stdout.splitlines()}, done.stdout
    assert not is_replica(old)

    new.query("SELECT pg_promote()")
    done = guard(old, witness)
    assert (done.returncode, done.stdout) == (0, "started\n"), done.stderr
    assert "is the primary, on timeline 2; this one is on 1" in done.stderr
    assert is_replica(old)
    old.start()
    assert old.query("SELECT pg_is_in_recovery()") is True
    # The promoted one itself is kept from nothing by a witness with an older history.
    new.stop()
    assert guard(new, f"127.0.0.1:{old.port}").returncode == 0
    assert not is_replica(new)


def test_no_answer_is_no_good_news_until_somebody_says_so(pair: tuple[Server, Server]) -> None:
    old, new = pair
    old.stop()
    new.stop()
    nobody = f"127.0.0.1:{free_port()}"
    done = guard(old, nobody, seconds=0)
    assert done.returncode == 0
    assert "no server of the other site answers" in done.stderr
    assert is_replica(old)
    (old.data / "standby.signal").unlink()
    (old.root / "start-alone").touch()
    assert guard(old, nobody, seconds=0).stdout == "started\n"
    assert not is_replica(old)
    # Once: the next start asks again.
    assert not (old.root / "start-alone").exists()
    # Without another site there is nobody to ask.
    assert guard(old, "").stdout == "started\n"
    assert not is_replica(old)


def test_a_server_of_another_cluster_is_no_witness(pair: tuple[Server, Server]) -> None:
    old, _ = pair
    with postgres_pair() as (stranger, _other):
        stranger.query("CREATE ROLE sebenza_health LOGIN")
        old.stop()
        done = guard(old, f"127.0.0.1:{stranger.port}", seconds=0)
    assert "has another cluster" in done.stderr
    assert is_replica(old)


def test_a_place_tells_what_it_reaches(pair: tuple[Server, Server]) -> None:
    closed = free_port()
    targets = [
        tcp_target("127.0.0.1", pair[0].port),
        tcp_target("127.0.0.1", closed),
        # PostgreSQL answers no page: a connection is not enough for a load balancer.
        https_target("127.0.0.1", pair[0].port, "/health"),
    ]
    assert look_from_here("app.sebenza.com", targets, seconds=2) == dict(
        zip(targets, (True, False, False), strict=True)
    )
