"""What is personal does not survive, on a real server; what nobody has declared stops it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from pydantic import ValidationError

from lab import paths
from sebenza_ops.environments.refresh_policy import RefreshPolicy
from sebenza_ops.recovery.anonymization import check_sql, parse_told, prepare_sql
from tests.backup.conftest import server
from tests.backup.repository_server import RepositoryServer

__all__ = ["server"]

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

PERSON, MAIL, PHONE, NUMBER = "Thandeka Mokoena", "thandeka@mokoena.co.za", "+27 82 555 1234", "9202204720082"
TABLES = f"""
CREATE TABLE users (id int PRIMARY KEY, email text NOT NULL UNIQUE, name varchar(60), phone text, id_number char(13),
  notes jsonb, role text DEFAULT 'planner');
CREATE TABLE audit (id bigint GENERATED ALWAYS AS IDENTITY, what text);
CREATE FUNCTION keep_old() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO public.audit (what) VALUES ('was ' || OLD.email); RETURN NEW; END $$;
CREATE TRIGGER keep_old AFTER UPDATE ON users FOR EACH ROW EXECUTE FUNCTION keep_old();
CREATE TABLE mails (recipient text REFERENCES users (email), sent_on date);
CREATE TABLE orders (id int, total numeric, reference text);
INSERT INTO users VALUES
  (1, '{MAIL}', '{PERSON}', '{PHONE}', '{NUMBER}', '{{"nick": "Tandi Mok", "of": ["{PERSON}"]}}'),
  (2, 'b@b.example', NULL, NULL, NULL, NULL),
  (3, 'c@c.example', 'O''Brien \\ Söhne', '', NULL, '[]');
INSERT INTO mails VALUES ('{MAIL}', '2026-01-01');
INSERT INTO orders SELECT n, n * 1.5, 'R-' || n FROM generate_series(1, 50) n;
"""
COLUMNS: list[dict[str, str]] = [
    {"table": "public.users", "column": "email", "how": "email"},
    {"table": "public.users", "column": "name", "how": "name"},
    {"table": "public.users", "column": "phone", "how": "phone"},
    {"table": "public.users", "column": "id_number", "how": "digits"},
    {"table": "public.users", "column": "notes", "how": "json"},
    {"table": "public.mails", "column": "recipient", "how": "email"},
]


def policy(columns: list[dict[str, str]] | None = None, **values: Any) -> RefreshPolicy:
    return RefreshPolicy.model_validate({"source": "production", "columns": columns or COLUMNS, **values})


@pytest.fixture
def database(server: RepositoryServer) -> Iterator[str]:
    name = f"anonymized_{uuid4().hex[:8]}"
    with server.connect("postgres") as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    with server.connect(name) as connection:
        connection.execute(TABLES)
    yield name
    with server.connect("postgres") as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def run(server: RepositoryServer, database: str, sql: str) -> subprocess.CompletedProcess[str]:
    """As include/hosts/set_dump_start.sh runs it."""
    command = [
        str(paths.POSTGRES_BIN / "psql"),
        "-X",
        "-A",
        "-t",
        "-q",
        "-v",
        "ON_ERROR_STOP=1",
        "-v",
        "VERBOSITY=terse",
    ]
    command += ["-h", f"{server.root}/run/postgresql", "-U", "postgres", "-d", database, "-f", "-"]
    return subprocess.run(command, input=sql, capture_output=True, text=True, check=False)


def refused(server: RepositoryServer, database: str, wanted: RefreshPolicy) -> str:
    done = run(server, database, prepare_sql(wanted, "salt"))
    assert done.returncode != 0, done.stdout
    for value in (PERSON, MAIL, PHONE, NUMBER):
        assert value not in done.stderr, "a message quotes somebody's data"
    return done.stderr


def everything(server: RepositoryServer, database: str) -> str:
    command = [str(paths.POSTGRES_BIN / "pg_dump"), "-h", f"{server.root}/run/postgresql", "-U", "postgres", database]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_no_personal_value_is_left_and_the_rest_is_as_it_was(server: RepositoryServer, database: str) -> None:
    done = run(server, database, prepare_sql(policy(canaries=["Tandi Mok"]), "a 'salt\\"))
    assert done.returncode == 0, done.stderr
    told = parse_told(done.stdout)
    assert told.rows["public.users.email"] == 3
    assert told.rows["public.users.phone"] == 2
    assert told.checked_columns >= 9
    dump = everything(server, database)
    for value in (PERSON, MAIL, PHONE, NUMBER, "Mokoena", "Tandi", "O'Brien", "b@b.example"):
        assert value not in dump, value
    with server.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM users u JOIN mails m ON m.recipient = u.email").fetchone() == (
            1,
        )
        rows = connection.execute("SELECT email, name, phone, id_number, notes FROM users ORDER BY id").fetchall()
        assert connection.execute("SELECT sum(total), count(DISTINCT reference) FROM orders").fetchone() == (1912.5, 50)
        # Constraints and triggers are as before, and foreign keys hold.
        connection.execute("INSERT INTO mails SELECT email FROM users")
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            connection.execute("INSERT INTO mails VALUES ('nobody@x.example')")
    assert all(str(row[0]).endswith("@example.invalid") for row in rows)
    assert rows[1][1:] == (None, None, None, None), "what was nothing became something"
    assert rows[0][4] == {}
    assert rows[2][4] == []
    assert str(rows[0][3]).isdigit()
    assert len(str(rows[0][3])) == 13
    assert run(server, database, check_sql(policy())).returncode == 0


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("ALTER TABLE orders ADD mobile_phone text", "public.orders.mobile_phone (by its name)"),
        ("ALTER TABLE orders ADD buyer text; UPDATE orders SET buyer = 'x@y.co.za' WHERE id = 7", "(e-mail addresses)"),
        ("ALTER TABLE orders ADD note text; UPDATE orders SET note = 'ring +27825551234'", "(phone numbers)"),
        ("ALTER TABLE orders ADD who bigint; UPDATE orders SET who = 9202204720082 WHERE id = 7", "(identity numbers)"),
        ('ALTER TABLE orders ADD doc jsonb; UPDATE orders SET doc = \'{"to": ["x@y.com"]}\'', "public.orders.doc"),
        ("CREATE TABLE drivers (name text)", "public.drivers.name (by its name)"),
        ("ALTER TABLE users DROP notes", "declared columns are not there: public.users.notes"),
        ("SELECT lo_create(0)", "large objects"),
    ],
)
def test_what_nobody_has_declared_stops_it_and_nothing_is_changed(
    server: RepositoryServer, database: str, change: str, expected: str
) -> None:
    with server.connect(database) as connection:
        connection.execute(change)
    assert expected in refused(server, database, policy())
    assert MAIL in everything(server, database)


def test_a_value_that_is_also_elsewhere_stops_it(server: RepositoryServer, database: str) -> None:
    with server.connect(database) as connection:
        connection.execute(f"UPDATE orders SET reference = 'for {PERSON}, urgent' WHERE id = 3")
    assert "personal values are left in: public.orders.reference (1 rows)" in refused(server, database, policy())
    harmless = [{"table": "public.orders", "column": "reference", "reason": "a test of it"}]
    assert "personal values are left" in refused(server, database, policy(not_personal=harmless))


def test_the_check_of_the_copy_finds_addresses_and_canaries(server: RepositoryServer, database: str) -> None:
    found = run(server, database, check_sql(policy(canaries=[PERSON])))
    assert found.returncode != 0
    for column in ("public.users.email (3 rows)", "public.mails.recipient", "public.users.name (1 rows)"):
        assert column in found.stderr


def test_a_column_is_declared_once_and_named_well() -> None:
    with pytest.raises(ValidationError, match=r"named twice: public\.users\.email"):
        policy([COLUMNS[0], {**COLUMNS[0], "how": "null"}])
    for column in ("e mail", 'x"; DROP TABLE users; --', ""):
        with pytest.raises(ValidationError):
            policy([{"table": "public.users", "column": column, "how": "null"}])
