"""The policy of a refresh: whose data an environment gets, how often, and what becomes of what is personal in it."""

from __future__ import annotations

import datetime
from typing import Annotated, Literal

from pydantic import Field, model_validator

from sebenza_ops.environments.backup_policy import Weekday
from sebenza_ops.environments.fields import Model, Name, UtcTime

_TABLE = r"^[a-z_][a-z0-9_$]{0,62}\.[a-z_][a-z0-9_$]{0,62}$"
_COLUMN = r"^[a-z_][a-z0-9_$]{0,62}$"

TableName = Annotated[str, Field(pattern=_TABLE, description="Schema and table, for example public.users.")]
How = Literal["email", "name", "phone", "digits", "hash", "text", "null", "json"]


class AnonymizedColumn(Model):
    """A column that holds something personal, and what becomes of it: the same value the same one everywhere."""

    table: TableName
    column: Annotated[str, Field(pattern=_COLUMN, description="Its column.")]
    how: Annotated[
        How,
        Field(
            description="email: an address below example.invalid; name: Person and a few letters; phone: +000 and nine "
            "digits; digits: as many other digits; hash: 32 letters; text: the word removed; null: nothing; json: an "
            "empty array or object."
        ),
    ]


class HarmlessColumn(Model):
    """A column that looks personal and is not, or whose values are in other columns by chance."""

    table: TableName
    column: Annotated[str, Field(pattern=_COLUMN, description="Its column.")]
    reason: Annotated[str, Field(min_length=5, max_length=200, description="Why nothing in it is personal.")]


class RefreshPolicy(Model):
    """The environment's database is made anew from another environment's newest verified backup, anonymized."""

    source: Annotated[Name, Field(description="The environment whose backup is taken; it needs policies.backup.")]
    weekday: Annotated[Weekday, Field(description="Day of the week, in UTC. Ours: Monday.")] = "monday"
    start: Annotated[UtcTime, Field(description='When it begins, UTC, for example "04:00". Ours.')] = datetime.time(
        4, 0
    )
    columns: Annotated[
        tuple[AnonymizedColumn, ...],
        Field(
            min_length=1, description="Everything personal. A column that looks so and is not here stops the refresh."
        ),
    ]
    not_personal: Annotated[
        tuple[HarmlessColumn, ...], Field(description="Columns that look personal and are not, each with its reason.")
    ] = ()
    canaries: Annotated[
        tuple[Annotated[str, Field(min_length=6, max_length=200)], ...],
        Field(description="Made-up personal values that were planted in the source: none may be found afterwards."),
    ] = ()

    @model_validator(mode="after")
    def _name_once(self) -> RefreshPolicy:
        named = [(each.table, each.column) for each in self.columns]
        named += [(each.table, each.column) for each in self.not_personal]
        twice = sorted({".".join(each) for each in named if named.count(each) > 1})
        if twice:
            raise ValueError(f"expected each column once; named twice: {', '.join(twice)}")
        return self
