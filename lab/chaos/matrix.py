"""The fault matrix as a page of the user's guide: `python -m lab.chaos.matrix` writes docs/faults.md."""

from __future__ import annotations

from typing import Final

from lab import paths
from lab.chaos.catalog import GROUPS, SCENARIOS, SELECTED
from lab.chaos.scenario import Scenario

PAGE: Final = paths.CHECKOUT / "docs" / "faults.md"

_HEAD: Final = """# Faults

What deployments, backups and recoveries survive, and how that is known. Each row is a scenario that really happens in
the lab: a procedure is started through Airflow's API (a deployment while users send requests, 100 a second or what the
machine bears: [Load](lab.md#load)), something is broken at a state that is seen in the estate or in the run, and the
end is judged from outside.

    make chaos                                  # all {total}; writes build/chaos.json; takes about {minutes} minutes
    python -m lab.chaos --list                  # their names
    python -m lab.chaos --only 'marker-*'       # some of them; their results replace the earlier ones

`make test` plays those marked with ●. This page is written by `python -m lab.chaos.matrix` from the scenarios
themselves.

## What "safe" means

A scenario is safe when all of this holds, and unsafe otherwise; what is wrong is in its `detail`:

- Exactly one color is live, all load balancers agree, and it is the color in the last column. Their map files say the
  same, so that a restart changes nothing; markers agree; every application host serves the color. This is judged by
  `lab/checker.py`, which shares no code with the procedures. Where a load balancer can't be reached, the run may end
  with traffic on two colors instead, if its error and the messages to people say SPLIT TRAFFIC and what to do ("or said
  loudly").
- No request of a user failed, but for those that the fault itself explains: on the broken load balancer while it was
  broken, or the bad release's own 5xx answers. All others count as caused by us.
- The run ended as the scenario says. A deployment that succeeded has watched its release for the whole bake.
- Of backups (judged by `lab/chaos/kept.py`): no set that was there is gone, as many as the scenario says are new, and
  pgBackRest reads the whole repository back; each piece of a new dump has its SHA-256 in object storage; the catalog
  agrees with the repository; all WAL arrives; nothing works on a host for nobody; the lease is given back.
- Of restores: the rows of the manifest, or exactly the commits that a client was told of before the moment, are there,
  on the primary and on its replica; one server takes writes, and clients get to it; no copy and no database without a
  name is left, and no lease.
- For every failed run exactly one message is on Slack, and one page on PagerDuty; a run that was refused before it
  touched anything pages nobody.
"""
_ELSEWHERE: Final = """## Played in the tests

These need no users' requests to be judged by, or share an expensive state with others; they happen for real as well.

| what is broken | test |
|---|---|
"""
_TESTS: Final = {
    "the approval is rejected; it is given by the requester; the version moves after it; "
    "a gate has no data and is waived": "deployment/test_way_in",
    "a changed byte of an attestation, another key, nonsense": "deployment/test_gates",
    "a lock conflict that goes away or stays, a half-applied or failing migration, two runs at once, a fenced run, "
    "on a real PostgreSQL": "deployment/test_migrations",
    "a migration's test on a copy that fails, is killed, or is of another artifact": "hosts/test_migration_test",
    "contract migrations that a running release or the way back still needs": "deployment/test_migrate_contract",
    "a rollback in a deployment's bake; to a stopped color; to a release that is bad, unknown or live "
    "already": "deployment/test_rollback_procedure",
    "a planned switch of the database's primary, killed right after each step of the move; a replica that "
    "stops replaying in its middle; a primary that is killed while its replica is cut off": "recovery/test_switch",
    "a database host that is gone with all that runs on it, and comes back as the primary that it "
    "was": "recovery/test_switch_procedure",
    "a lost site whose standby was cut off before; its primary that comes back; a standby that does not replay; a "
    "failover and a failback killed after each of their calls; two recoveries at once; a server that lives out of "
    "reach": "recovery/test_disaster",
    "a former primary that starts while the other site's server is promoted, silent, or of another "
    "cluster": "hosts/test_database_guard",
    "backups that are opened with another passphrase than the escrowed one": "backup/test_drill_instance",
    "the whole primary site, its ledger and its storage killed, recovered by break-glass from the secondary "
    "one": "recovery/test_disaster_procedure",
    "200 hostile confs over the API: shell, options, paths, templates, SQL, control characters, sizes, "
    "wrong types": "airflow/test_hostile_conf",
}
# Measured: a scenario takes half a minute to two.
_SECONDS_EACH: Final = 50


def page() -> str:
    """The page's text."""
    parts = [_HEAD.format(total=len(SCENARIOS), minutes=round(len(SCENARIOS) * _SECONDS_EACH / 60))]
    for title, scenarios in GROUPS.items():
        rows = [_row(scenario) for scenario in scenarios]
        parts.append(
            "\n".join(
                [
                    f"## {title}",
                    "",
                    "| scenario | what is broken | what must happen | live at the end |",
                    "|---|---|---|---|",
                    *rows,
                    "",
                ]
            )
        )
    tests = "".join(f"| {what} | `tests/{file}.py` |\n" for what, file in _TESTS.items())
    return "\n".join([*parts, _ELSEWHERE + tests])


def _row(scenario: Scenario) -> str:
    live = {"OLD": "the old one", "NEW": "the new one", "EITHER": "one of both"}[scenario.live.name]
    if scenario.may_split:
        live += ", or said loudly"
    excused = "" if scenario.excuse.words == "none" else f" Requests that may fail: {scenario.excuse.words}."
    name = f"`{scenario.name}`{' ●' if scenario.name in SELECTED else ''}"
    return f"| {name} | {scenario.fault} | {scenario.expects}.{excused} | {live} |"


if __name__ == "__main__":
    PAGE.write_text(page())
