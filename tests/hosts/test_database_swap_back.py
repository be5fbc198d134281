"""An exchange of databases that is taken back: the former one has its name again, and the other is removed."""

from __future__ import annotations

import json
import time

import pytest

from tests.hosts.scripts import run
from tests.hosts.test_database_swap import Shop, connect, server, shop

__all__ = ["server", "shop"]

pytestmark = pytest.mark.integration


def test_an_exchange_is_taken_back(shop: Shop) -> None:
    with connect(shop.server, "postgres") as connection:
        row = connection.execute("SELECT oid FROM pg_database WHERE datname = %s", [shop.name]).fetchone()
    assert row is not None
    assert shop.swap(shop.made().oid).returncode == 0
    assert shop.orders(shop.name) == 100

    fence = [shop.directory / "state", "production", 7, "dag/run"]
    arguments = [*fence, *shop.login(), shop.name, shop.aside, shop.restored, row[0], int(time.time()) + 10, 5]
    done = run("database_swap", *arguments, stdin="none\n")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["oid"] == int(row[0])
    assert shop.orders(shop.name) == 102
    assert shop.there() == {shop.name: True, shop.restored: True}
    assert shop.settle() == ["unchanged", f"{shop.restored}, the copy that was not used, is removed"]
    assert shop.there() == {shop.name: True}


def test_other_names_are_refused(shop: Shop) -> None:
    oid = shop.made().oid
    for restored, aside in (("postgres", shop.aside), (shop.restored, "postgres"), (shop.restored, shop.restored)):
        fence = [shop.directory / "state", "production", 7, "dag/run"]
        arguments = [*fence, *shop.login(), shop.name, restored, aside, oid, int(time.time()) + 10, 5]
        done = run("database_swap", *arguments, stdin="none\n")
        assert done.returncode == 1
        assert "are no names of a copy" in done.stderr
    assert shop.there() == {shop.name: True, shop.restored: True}
