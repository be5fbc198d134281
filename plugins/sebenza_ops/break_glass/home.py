"""The private Airflow home of a run: its own database, of which nobody else knows, and nothing of another Airflow's.

The database is migrated once for each version of Airflow, and copied for every run: leftovers of an earlier run can't
meet a later one, and two runs at once do not share anything.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from sebenza_ops.break_glass.errors import RefusedError

HOME_VARIABLE = "SEBENZA_BREAK_GLASS_HOME"
JOURNAL_VARIABLE = "SEBENZA_JOURNAL"
DAGS_VARIABLE = "SEBENZA_DAGS"
KEPT_RUNS = 20
# The repository's root: dags/ lies beside plugins/, in a checkout and in the image.
_ROOT = Path(__file__).resolve().parents[3]


def home_directory() -> Path:
    """Where homes of runs are: SEBENZA_BREAK_GLASS_HOME, or ~/.sebenza-break-glass."""
    return Path(os.environ.get(HOME_VARIABLE) or Path.home() / ".sebenza-break-glass")


def dags_directory() -> Path:
    """Where the procedures are: SEBENZA_DAGS, or the project's own."""
    return Path(os.environ.get(DAGS_VARIABLE) or _ROOT / "dags")


class Home:
    """The directory of all runs of one account; owner-only.

    Args:
        directory: The directory; made when it is not there.
        credentials: The credentials file.

    Raises RefusedError when others may enter it, or it can't be written.
    """

    def __init__(self, directory: Path, credentials: Path) -> None:
        self.directory, self.credentials = directory.absolute(), credentials.absolute()
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self.directory.stat()
        except OSError as error:
            raise RefusedError(f"{directory} can't be made ({error.strerror}); name another {HOME_VARIABLE}") from error
        if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise RefusedError(f"{directory} is not yours alone: chmod 700 it, or name another {HOME_VARIABLE}")

    @property
    def prepared_database(self) -> Path:
        """A migrated, empty metadata database of this version of Airflow."""
        return self.directory / f"prepared-{version('apache-airflow-core')}.db"

    def prepare(self, say: Callable[[str], None]) -> Path:
        """Migrate the database that runs are copied from, if that is not done. Raises RefusedError."""
        prepared = self.prepared_database
        if prepared.exists():
            return prepared
        say("preparing a private Airflow database (once for each version of Airflow)")
        place = self._new_directory("prepare")
        log = place / "prepare.log"
        with log.open("w") as output:
            done = subprocess.run(
                [sys.executable, "-m", "sebenza_ops.break_glass.migrate"],
                env=self.environment(place),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if done.returncode != 0:
            last = (log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
            raise RefusedError(f"the private Airflow database can't be prepared: {last} (all of it: {log})")
        (place / "airflow.db").replace(prepared)
        shutil.rmtree(place)
        return prepared

    def new_run(self, procedure_file: Path) -> Path:
        """A home for one run, with the database and one procedure's file. The oldest homes beyond some go."""
        place = self._new_directory(datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ"))
        (place / "dags" / procedure_file.name).symlink_to(procedure_file.absolute())
        shutil.copyfile(self.prepared_database, place / "airflow.db")
        runs = sorted(path for path in (self.directory / "runs").iterdir() if not path.name.startswith("prepare"))
        for old in runs[:-KEPT_RUNS]:
            shutil.rmtree(old, ignore_errors=True)
        return place

    def environment(self, place: Path) -> dict[str, str]:
        """Environment variables of a run: nothing of another Airflow's settings and connections is left in them."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "_AIRFLOW_"))}
        settings = {
            "AIRFLOW_HOME": str(place),
            "AIRFLOW_CONFIG": str(self.directory / "airflow.cfg"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(place / "dags"),
            # The package's plugin brings the console; none of it is needed here.
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(place / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            # The default asks the resolver, which may be what is broken.
            "AIRFLOW__CORE__HOSTNAME_CALLABLE": "socket.gethostname",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{place}/airflow.db",
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(place / "logs"),
            "AIRFLOW__SECRETS__BACKEND": "airflow.secrets.local_filesystem.LocalFilesystemBackend",
            "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps({"connections_file_path": str(self.credentials)}),
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            # As Airflow's own commands do, so that connections are looked up outside of tasks too.
            "_AIRFLOW_PROCESS_CONTEXT": "server",
            "PYTHONPATH": f"{_ROOT / 'plugins'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
            "TZ": "UTC",
        }
        if JOURNAL_VARIABLE not in kept:
            settings[JOURNAL_VARIABLE] = str(self.directory / "journal")
        return kept | settings

    def _new_directory(self, name: str) -> Path:
        place = self.directory / "runs" / f"{name}-{secrets.token_hex(3)}"
        try:
            for path in (place, place / "dags", place / "plugins"):
                path.mkdir(mode=0o700, parents=True)
        except OSError as error:
            raise RefusedError(f"{place} can't be made ({error.strerror}); name another {HOME_VARIABLE}") from error
        return place
