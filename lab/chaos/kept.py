"""What is really kept of production's database: asked of pgBackRest, object storage and PostgreSQL themselves.

It shares no code with the procedures, and believes neither their records nor the ledger's catalog, which it is compared
with.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any, Final

import psutil

from lab import backups, paths, postgres
from lab.chaos.run import MissedStateError
from lab.hosts import ENVIRONMENTS
from lab.inventory import storage_client
from lab.storage import BUCKET

if TYPE_CHECKING:
    from lab.chaos.drill import Drill

_HOSTS: Final = ENVIRONMENTS["production"].database_hosts
_LEASE: Final = "production.backup"
# pgBackRest tries again for a minute, and PostgreSQL waits for another one after three failures.
CATCH_UP_SECONDS: Final = 180.0
_READ_SECONDS: Final = 180.0


def replica() -> str:
    """The host on which backups are read, verified and removed: the one that is not the primary."""
    primary = postgres.primary_of_production()
    return next(host for host in _HOSTS if host != primary)


def sets() -> dict[str, str]:
    """The sets in the repository, each with its type, oldest first; by pgBackRest."""
    return {str(each["label"]): str(each["type"]) for each in _info()}


def needed_by(label: str) -> list[str]:
    """The sets that one is based on, the next one first."""
    priors = {str(each["label"]): each["prior"] for each in _info()}
    needed: list[str] = []
    while (prior := priors.get(needed[-1] if needed else label)) is not None:
        needed.append(str(prior))
    return needed


def _info() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(backups.run(_HOSTS[0], "info", "--output=json").stdout)[0]["backup"]
    return found


def works(*words: str) -> bool:
    """Whether a command of pgBackRest, or one that a backup starts, works on a database host: by its arguments."""
    return bool(_processes(*words))


def kill(*words: str) -> int:
    """SIGKILL such commands with all that they have started; how many there were."""
    found = _processes(*words)
    for process in found:
        for each in [*process.children(recursive=True), process]:
            try:
                each.kill()
            except psutil.NoSuchProcess:
                continue
    return len(found)


def _processes(*words: str) -> list[psutil.Process]:
    roots = [str(paths.host_root(host)) for host in _HOSTS]
    found = []
    for process in psutil.process_iter():
        try:
            arguments = process.cmdline()
            if not arguments or not arguments[0].endswith(("pgbackrest", "pg_dump", "pg_restore")):
                continue
            if not all(any(argument.startswith(word) for argument in arguments[1:]) for word in words):
                continue
            if any(root in f"{arguments} {process.environ()}" for root in roots):
                found.append(process)
        except psutil.Error:
            continue
    return found


def damaged() -> list[str]:
    """What pgBackRest finds wrong when it reads the whole repository; its exit status tells nothing."""
    text = backups.run(_HOSTS[0], "--output=text", "--verbose", "verify", timeout_seconds=_READ_SECONDS).stdout
    if not re.search(r"^status: ok", text, re.M):
        return [line.strip() for line in text.splitlines() if re.search("invalid|missing|status", line)][:6] or [text]
    return []


def dump_problems(label: str) -> list[str]:
    """What is wrong with the dump of a set in object storage: each piece is fetched, and hashed."""
    client, prefix = storage_client(), f"backups/database/production/{label}/"
    try:
        manifest: dict[str, Any] = json.loads(
            client.get_object(Bucket=BUCKET, Key=f"{prefix}manifest.json")["Body"].read()
        )
    except client.exceptions.NoSuchKey:
        return [f"{label} has no manifest in object storage"]
    wrong = [] if manifest["rows"] and manifest["objects"] else [f"the manifest of {label} names nothing"]
    for key, piece in manifest["objects"].items():
        content = client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        if hashlib.sha256(content).hexdigest() != piece["sha256"]:
            wrong.append(f"{key} is not what its manifest says")
    return wrong


def archiver() -> dict[str, Any]:
    """What the primary says of its archive: `waiting` segments, `failed` attempts so far, `archived` last, its age."""
    with postgres.connect(postgres.primary_of_production()) as cursor:
        cursor.execute(
            "SELECT (SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'), failed_count,"
            " last_archived_wal, extract(epoch FROM clock_timestamp() - last_archived_time) FROM pg_stat_archiver"
        )
        waiting, failed, archived, age_seconds = cursor.fetchone()
    return {"waiting": waiting, "failed": failed, "archived": archived, "age_seconds": float(age_seconds or 0)}


def write_wal(segments: int = 1) -> None:
    """Fill so many WAL segments of the primary, so that each must be archived."""
    with postgres.connect(postgres.primary_of_production()) as cursor:
        for number in range(segments):
            cursor.execute("SELECT pg_logical_emit_message(true, 'chaos', %s)", (f"segment {number}",))
            cursor.execute("SELECT pg_switch_wal()")


def catches_up(drill: Drill) -> None:
    """Wait until no WAL waits, and what counts as archived is in the repository, without a gap."""
    write_wal()
    drill.until(
        lambda: archiver()["waiting"] == 0,
        "all WAL is archived",
        CATCH_UP_SECONDS,
        lambda: f"{archiver()['waiting']} files wait",
    )
    newest = str(archiver()["archived"])[:24]
    there = archived_segments()
    drill.expect(newest in there, f"{newest} counts as archived, and the repository does not have it")


def archived_segments() -> set[str]:
    """The WAL segments in the repository."""
    text = backups.run(_HOSTS[0], "repo-ls", "--recurse", f"archive/{backups.STANZA}").stdout
    return set(re.findall(r"/([0-9A-F]{24})-[0-9a-f]{40}", text))


def ready(drill: Drill) -> dict[str, str]:
    """Backups are switched on, and there is a full one to base others on. Returns the sets that there are."""
    from lab.chaos.scenario import BACKUP

    drill.stage.switch_on(BACKUP)
    good = {each.label for each in drill.stage.records.catalog("production") if not each.bad_reason}
    if not any(kind == "full" and label in good for label, kind in sets().items()):
        run = drill.back_up("full")
        if run.until_ended() != "success":
            raise MissedStateError(f"a backup to begin with: {run.errors()}")
        drill.runs.remove(run)
    return sets()


def judge(drill: Drill, before: dict[str, str], *, new: int) -> list[str]:
    """Nothing that was kept is gone, so many whole sets are new, the catalog agrees, nobody works. The new labels."""
    _await_idle(drill)
    after = sets()
    made = [label for label in after if label not in before]
    lost = [label for label in before if label not in after]
    drill.expect(not lost, f"sets are gone that were there before: {lost}")
    drill.expect(len(made) == new, f"{len(made)} sets are new, not {new}: {made}")
    catalog = drill.stage.records.catalog("production")
    physical = {each.label for each in catalog if each.kind == "physical"}
    drill.expect(physical == set(after), f"the catalog has {sorted(physical)}, the repository {sorted(after)}")
    for label in made:
        drill.problems += dump_problems(label)
        known = {each.kind: each for each in catalog if each.label == label}
        for kind in ("physical", "logical"):
            found = known.get(kind)
            drill.expect(
                found is not None and found.is_verified and not found.bad_reason,
                f"the catalog does not call {label} ({kind}) verified: {found}",
            )
    drill.problems += [f"the repository: {line}" for line in damaged()]
    drill.expect(drill.stage.records.open_lease(_LEASE) is None, "the lease of backups is still held")
    drill.note(f"{len(after)} sets in the repository, new: {', '.join(made) or 'none'}; all read back")
    return made


def _await_idle(drill: Drill) -> None:
    def idle() -> bool:
        return not works("--stanza", "backup") and not works("--stanza", "expire")

    drill.until(idle, "no backup works on a database host any more", 60)


def told(drill: Drill, run_id: str, words: str) -> list[str]:
    """The messages on Slack about a run that have these words."""
    texts = [str(message.get("text", "")) for message in drill.stage.mailbox.messages("slack")]
    return [text for text in texts if run_id in text and words in text]


def until_told(drill: Drill, run_id: str, words: str, timeout_seconds: float) -> None:
    """Wait until people were told something about a run."""
    drill.until(lambda: bool(told(drill, run_id, words)), f"people are told {words!r}", timeout_seconds)
