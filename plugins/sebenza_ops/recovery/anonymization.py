"""The SQL by which a restored copy loses what is personal in it, and refuses what nobody has declared. Pure rules.

It runs as a superuser in a scratch instance that nobody else reaches, before the data leaves the source's hosts. It
prints one JSON object a line; it never prints a value, and raises with names of columns and numbers only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sebenza_ops.environments.refresh_policy import RefreshPolicy
from sebenza_ops.systems.host_scripts import include_dir

# An address that RFC 2606 keeps from ever being somebody's; phone numbers begin with a code that nobody has.
MAIL_DOMAIN = "example.invalid"
# Columns of a table are sampled beyond it; smaller ones are read whole.
SAMPLED_ROWS = 50_000
# So many of the original values are looked for inside of other texts; all of them as whole values.
CONTAINED_VALUES = 200
# Shorter values ("Ann", "42") are found everywhere by chance.
SHORTEST_VALUE = 5

# By name: what calls itself so is taken for personal whatever it holds.
PERSONAL_NAME = (
    r"(e_?mail|phone|mobile|msisdn|cellphone|cell_no|fax|first_?name|last_?name|middle_?name|sur_?name|full_?name|"
    r"given_?name|maiden|passport|national_?id|id_?number|id_?no($|_)|identity|ssn($|_)|social_sec|tax_?(no|number|id)|"
    r"birth|(^|_)dob($|_)|gender|street|address|postal|(^|_)zip($|_)|iban|bank_acc|account_?(no|number|holder)|"
    r"card_?(no|number)|signature|(^|_)ip($|_)|latitude|longitude|password|secret|token)"
)
PERSON_TABLE = r"(user|person|people|employee|staff|customer|contact|driver|member|patient|candidate)"
EMAIL = r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}"
# International, or national with its leading zero; then with separators as people write them.
PHONE = r"(\+[0-9][0-9 ()./-]{7,16}[0-9]|^0[0-9]{2}[ /-]?[0-9]{3}[ -]?[0-9]{4}$)"
# South African identity numbers: birthday, sequence, citizenship (Identification Act 68 of 1997).
ID_NUMBER = r"(^|[^0-9])[0-9]{2}(0[1-9]|1[0-2])(0[1-9]|[12][0-9]|3[01])[0-9]{4}[01][0-9]{2}($|[^0-9])"

EXPRESSIONS = {
    "email": "'user-' || substr(md5({salt} || {column}::text), 1, 20) || '@" + MAIL_DOMAIN + "'",
    "name": "'Person ' || substr(md5({salt} || {column}::text), 1, 12)",
    "phone": "'+000' || lpad((('x' || substr(md5({salt} || {column}::text), 1, 8))::bit(32)::bigint "
    "% 1000000000)::text, 9, '0')",
    "digits": "translate(substr(md5({salt} || {column}::text) || md5({column}::text || {salt}), 1, "
    "length({column}::text)), 'abcdef', '789012')",
    "hash": "md5({salt} || {column}::text)",
    "text": "'removed'",
    "null": "NULL",
    "json": "CASE jsonb_typeof({column}::jsonb) WHEN 'array' THEN '[]' ELSE '{{}}' END",
}


def quoted(text: str) -> str:
    """A text as an SQL literal. Raises ValueError for what PostgreSQL can't keep."""
    if "\0" in text:
        raise ValueError("a NUL is no text")
    # Whatever standard_conforming_strings says, a backslash is one.
    return ("E" if "\\" in text else "") + "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def identifier(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _table(name: str) -> str:
    return ".".join(identifier(part) for part in name.split("."))


_HEAD = """\\set ON_ERROR_STOP 1
SET client_min_messages = warning;
SET statement_timeout = 0;
SET lock_timeout = 0;
SET row_security = off;
SET timezone = 'UTC';
SET search_path = pg_catalog, pg_temp;
"""
_TABLES = """CREATE TEMP TABLE told (line json);
CREATE TEMP TABLE originals (value text);
CREATE TEMP TABLE contained (value text);
CREATE TEMP TABLE harmless ("table" text, "column" text);
CREATE TEMP TABLE rules ("table" text, "column" text, source text, how text);
"""
_SETTINGS = {
    "sampled_rows": str(SAMPLED_ROWS),
    "contained_values": str(CONTAINED_VALUES),
    "shortest_value": str(SHORTEST_VALUE),
    "personal_name": PERSONAL_NAME,
    "person_table": PERSON_TABLE,
    "email": EMAIL,
    "whole_email": f"({EMAIL.replace('(', '(?:')})",
    "phone": PHONE,
    "id_number": ID_NUMBER,
    "mail_domain": MAIL_DOMAIN,
}


@cache
def _part(name: str) -> str:
    return (include_dir() / "sql" / f"refresh_{name}.sql").read_text()


def _beginning(policy: RefreshPolicy) -> str:
    """Settings and tables that the parts read."""
    settings = "".join(f"SET sebenza.{name} = {quoted(value)};\n" for name, value in _SETTINGS.items())
    rules = [(each.table, each.column, _table(each.table), each.how) for each in policy.columns]
    harmless = [(each.table, each.column) for each in policy.not_personal]
    filled = _insert("rules", rules) + _insert("harmless", harmless)
    return settings + _TABLES + filled + _insert("contained", [(each,) for each in policy.canaries])


def _insert(table: str, rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    return f"INSERT INTO {table} VALUES " + ", ".join(f"({', '.join(map(quoted, row))})" for row in rows) + ";\n"


def prepare_sql(policy: RefreshPolicy, salt: str) -> str:
    """Refuse what is not declared, remember, anonymize, check. Nothing is committed unless all of it went well.

    Args:
        policy: The environment's policy.
        salt: Unguessable and kept nowhere: without it nobody can try which value became which.
    """
    tables = dict.fromkeys(each.table for each in policy.columns)
    return "".join(
        [
            _HEAD,
            # Triggers and foreign keys rest: no trigger keeps an old value, references change alike on both sides.
            "SET session_replication_role = replica;\nBEGIN;\n",
            _beginning(policy),
            _part("look"),
            _part("refuse"),
            _part("remember"),
            *(_update(policy, table, salt) for table in tables),
            _part("check"),
            "COMMIT;\nSELECT line FROM told;\n",
        ]
    )


def check_sql(policy: RefreshPolicy) -> str:
    """The check alone, for a copy that is elsewhere by now: no address but made-up ones, no canary. Changes nothing."""
    return "".join([_HEAD, _beginning(policy), _part("look"), _part("check"), "SELECT line FROM told;\n"])


def _update(policy: RefreshPolicy, table: str, salt: str) -> str:
    """One pass over a table, all of its columns at once; psql runs what the first statement gives."""
    columns = [each for each in policy.columns if each.table == table]
    settings = ", ".join(_setting(each.column, each.how, salt).replace("%", "%%") + "::%s" for each in columns)
    # As the column's own type: a text is no jsonb, and no number.
    types = ", ".join(
        "(SELECT format_type(a.atttypid, a.atttypmod) FROM pg_attribute a WHERE a.attrelid = "
        f"{quoted(_table(table))}::regclass AND a.attname = {quoted(each.column)})"
        for each in columns
    )
    told = [
        f"json_build_object('what', 'anonymized', 'column', {quoted(f'{table}.{each.column}')}, 'how', "
        f"{quoted(each.how)}, 'rows', (SELECT count({identifier(each.column)}) FROM {_table(table)}))"
        for each in columns
    ]
    update = quoted(f"UPDATE {_table(table)} SET {settings}")
    return f"SELECT format({update}, {types}) \\gexec\n" + "".join(
        f"INSERT INTO told SELECT {each};\n" for each in told
    )


def _setting(column: str, how: str, salt: str) -> str:
    name = identifier(column)
    if how == "null":
        return f"{name} = NULL"
    changed = EXPRESSIONS[how].format(salt=quoted(salt), column=name)
    return f"{name} = (CASE WHEN {name} IS NULL THEN NULL ELSE {changed} END)"


@dataclass(frozen=True)
class Anonymized:
    """What the SQL has told: rows of each declared column, and how many columns were looked through afterwards."""

    rows: dict[str, int]
    how: dict[str, str]
    checked_columns: int
    remembered_values: int

    def text(self) -> str:
        """In words."""
        changed = ", ".join(f"{name} ({self.how[name]}, {rows} rows)" for name, rows in self.rows.items())
        return (
            f"anonymized: {changed}; afterwards none of {self.remembered_values} original values was left in any of "
            f"{self.checked_columns} columns"
        )


def parse_told(text: str) -> Anonymized:
    """The lines that the SQL prints. Raises ValueError when they do not tell of the check."""
    rows: dict[str, int] = {}
    how: dict[str, str] = {}
    checked: dict[str, Any] | None = None
    for line in filter(None, text.splitlines()):
        item = json.loads(line)
        if item["what"] == "anonymized":
            rows[str(item["column"])], how[str(item["column"])] = int(item["rows"]), str(item["how"])
        elif item["what"] == "checked":
            checked = item
    if checked is None or int(checked["columns"]) == 0:
        raise ValueError(f"no column was looked through: {text[:200]!r}")
    return Anonymized(rows, how, int(checked["columns"]), int(checked["values"]))
