"""Which part of a dump serves first: by its own table of contents, as pg_restore 15 prints it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from sebenza_ops.environments.models import DisasterRecoveryPolicy
from sebenza_ops.recovery.partial_rules import Entry, NotInDumpError, Parts, differences, parse_contents, split

# From a dump of the sample application's tables and a few more, shortened.
CONTENTS = """;
; Archive created at 2026-11-26 02:21:05 UTC
;     Dumped by pg_dump version: 15.18 (Debian 15.18-0+deb12u1)
;
3457; 1262 16384 DATABASE - shop postgres
2; 3079 16493 EXTENSION - amcheck\x20
220; 1259 16449 TABLE public activity postgres
3460; 0 0 ACL public TABLE activity postgres
;	depends on: 220
229; 1255 16473 FUNCTION public of_activity(public.activity) postgres
;	depends on: 220
228; 1255 16462 FUNCTION public invoices_sync_amount() postgres
219; 1259 16448 SEQUENCE public activity_id_seq postgres
;	depends on: 220
216; 1259 16397 TABLE public clients postgres
226; 1259 16485 TABLE public events postgres
227; 1259 16488 TABLE public events_2026 postgres
;	depends on: 226
218; 1259 16426 TABLE public invoices postgres
215; 1259 16385 TABLE public users postgres
221; 1259 16464 TABLE public schema_migrations postgres
230; 1259 16470 TABLE public my table postgres
222; 1259 16469 VIEW public recent postgres
;	depends on: 215 215 220 220
3247; 0 0 TABLE ATTACH public events_2026 postgres
;	depends on: 227 226
3446; 0 16449 TABLE DATA public activity postgres
;	depends on: 220
3444; 0 16426 TABLE DATA public invoices postgres
;	depends on: 218
3451; 0 16488 TABLE DATA public events_2026 postgres
;	depends on: 227
3462; 0 0 SEQUENCE SET public activity_id_seq postgres
;	depends on: 219
3269; 2606 16405 CONSTRAINT public clients clients_pkey postgres
;	depends on: 216
3267; 2606 16394 CONSTRAINT public users users_pkey postgres
;	depends on: 215
3275; 1259 16447 INDEX public invoices_created_at postgres
;	depends on: 218
3292; 2620 16463 TRIGGER public invoices invoices_sync_amount postgres
;	depends on: 218 228
3291; 2606 16457 FK CONSTRAINT public activity activity_user_id_fkey postgres
;	depends on: 3267 215 220
3289; 2606 16437 FK CONSTRAINT public invoices invoices_client_id_fkey postgres
;	depends on: 218 216 3269
"""


def parts(*critical: str) -> Parts:
    return split(parse_contents(CONTENTS), critical)


def whats(entries: tuple[Entry, ...]) -> set[str]:
    return {entry.what.removesuffix(" postgres") for entry in entries}


def test_what_critical_tables_refer_to_comes_with_them_and_the_revision_always() -> None:
    found = parts("public.invoices")
    assert found.tables == {"public.invoices", "public.clients", "public.schema_migrations"}
    first = whats(found.first)
    assert {"DATABASE - shop", "TABLE DATA public invoices", "TRIGGER public invoices invoices_sync_amount"} <= first
    assert "FK CONSTRAINT public invoices invoices_client_id_fkey" in first
    assert "FUNCTION public invoices_sync_amount()" in first, "what belongs to no table comes first"


def test_whatever_needs_a_table_of_the_rest_comes_later_with_it() -> None:
    later = whats(parts("public.invoices", "public.users").later)
    for what in (
        "TABLE public activity", "ACL public TABLE activity", "FUNCTION public of_activity(public.activity)",
        "SEQUENCE public activity_id_seq", "SEQUENCE SET public activity_id_seq", "VIEW public recent",
        "TABLE public my table", "FK CONSTRAINT public activity activity_user_id_fkey",
    ):  # fmt: skip
        assert what in later, what


def test_every_entry_is_in_exactly_one_part() -> None:
    found = parts("public.users")
    assert {each.number for each in found.first}.isdisjoint({each.number for each in found.later})
    assert len(found.first) + len(found.later) == len(parse_contents(CONTENTS))
    needed = {number for each in found.first for number in each.needs}
    assert needed.isdisjoint({each.number for each in found.later}), "the first part could not be restored alone"


def test_a_partition_comes_with_its_table_and_the_table_with_its_partition() -> None:
    for name in ("public.events", "public.events_2026"):
        found = parts(name)
        assert {"public.events", "public.events_2026"} <= found.tables
        assert "TABLE ATTACH public events_2026" in whats(found.first)


def test_keys_that_the_rest_refers_to_are_guarded() -> None:
    assert parts("public.users").guarded == ("public\tusers\tusers_pkey",)
    assert parts("public.clients").guarded == ("public\tclients\tclients_pkey",)
    assert parts("public.users", "public.activity", "public.invoices").guarded == ()


def test_rights_of_the_rest_are_given_apart_when_it_is_proven() -> None:
    lists = parts("public.users").lists()
    assert "ACL public TABLE activity" in lists["rights.list"]
    assert "ACL" not in lists["rest.list"]
    assert lists["critical.list"].splitlines()[0] == "3457; 0 0 DATABASE - shop postgres"


def test_only_files_of_the_first_part_are_fetched_first() -> None:
    found = parts("public.invoices")
    assert found.is_first("database/toc.dat")
    assert found.is_first("database/3444.dat.gz")
    assert not found.is_first("database/3446.dat.gz")
    assert not found.is_first("database/blobs.toc")
    assert found.is_first("database.pgc"), "a dump of one file is fetched whole"


def test_a_declared_table_that_the_dump_lacks_ends_it_with_those_that_it_has() -> None:
    with pytest.raises(NotInDumpError, match=r"public.orders of .*critical_tables: not in the dump, .*public.invoices"):
        parts("public.invoices", "public.orders")


def test_differences_are_told_of_the_tables_that_are_asked_for() -> None:
    manifest = {"public.users": 5, "public.invoices": 7, "public.activity": 9}
    assert differences(manifest, {"public.users": 5, "public.invoices": 7}, ["public.users", "public.invoices"]) == []
    assert differences(manifest, {"public.users": 4, "public.invoices": 7}) == [
        "public.activity: is missing", "public.users: 4 rows, expected 5",
    ]  # fmt: skip


def test_a_policy_without_what_serves_users_is_refused() -> None:
    with pytest.raises(ValidationError, match="expected haproxy, too: without them nobody is served"):
        DisasterRecoveryPolicy.model_validate({"critical_services": ["redis", "pm2", "nginx"]})
    with pytest.raises(ValidationError, match="expected critical_tables"):
        DisasterRecoveryPolicy.model_validate({"critical_paths": ["/api/v1/projects"]})
    with pytest.raises(ValidationError):
        DisasterRecoveryPolicy.model_validate({"critical_tables": ["public.users"], "critical_paths": ["projects"]})
