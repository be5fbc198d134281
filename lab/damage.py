"""Faults in files: a full disk, and spoiled markers and maps."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

from lab import kernel, paths
from lab.accounts import LOGIN_USER, write_as
from lab.configuration import MAP_FILE, MAP_KEY, color_backend, map_line
from lab.haproxy import runtime_command
from lab.waiting import LabError

_FILLER: Final = ".sebenza-lab-filler"
_SPARE_MIB: Final = 4
_CHUNK: Final = b"\0" * 65536

_MARKER: Final = "var/deployment/current-color"
_LAST_GOOD: Final = "var/deployment/last-good-release"
_FILES: Final = {"marker": _MARKER, "last-good": _LAST_GOOD, "map": MAP_FILE}
_GARBAGE: Final = "\x1b[31mblau\x00 \ufffd grün?\n"


def _below(host: str, directory: str) -> Path:
    place = paths.host_files(host) / directory.lstrip("/")
    if not place.is_dir():
        raise LabError(f"{host} has no directory {directory}")
    return place


def _copy(source: Path, target: Path, *options: str) -> None:
    done = subprocess.run(
        ["rsync", "--archive", "--hard-links", *options, f"{source}/", f"{target}/"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise LabError(f"copying {source} to {target} failed: {done.stderr.strip()[-300:]}")


def fill(host: str, directory: str, fault_id: str) -> None:
    """Put a file system of its own over a directory, with the same content, and fill it to the last byte."""
    place = _below(host, directory)
    original = paths.FAULTS_DIR / fault_id
    used = subprocess.run(["du", "-sm", str(place)], capture_output=True, text=True, check=True).stdout
    kernel.bind(place, original)
    # Small files take whole pages of a tmpfs; the copy must fit.
    kernel.mount_tmpfs(place, int(used.split()[0]) * 2 + _SPARE_MIB)
    status = original.stat()
    _copy(original, place)
    place.chmod(status.st_mode)
    with (place / _FILLER).open("wb", buffering=0) as filler:
        try:
            while filler.write(_CHUNK):
                pass
        except OSError:
            return


def unfill(host: str, directory: str, fault_id: str) -> None:
    """Take the full file system away; what was changed in it meanwhile is kept."""
    place = paths.host_files(host) / directory.lstrip("/")
    original = paths.FAULTS_DIR / fault_id
    if original in kernel.mounts():
        (place / _FILLER).unlink(missing_ok=True)
        _copy(place, original, "--delete")
        kernel.unmount(place)
        kernel.unmount(original)
    if original.exists():
        original.rmdir()


def read(host: str, target: str) -> str | None:
    """The present content of something that can be spoiled; None when it is missing."""
    if target == "map-in-memory":
        return _map_in_memory(host)
    file = _file(host, target)
    return file.read_text(errors="surrogateescape") if file.exists() else None


def write(host: str, target: str, content: str | None) -> None:
    """Set the content of something that can be spoiled; None removes it."""
    if target == "map-in-memory":
        _set_map_in_memory(host, content)
        return
    file = _file(host, target)
    if content is None:
        file.unlink(missing_ok=True)
    else:
        write_as(file, content, LOGIN_USER)


def _file(host: str, target: str) -> Path:
    if target not in _FILES:
        raise KeyError(f"can't corrupt {target!r}; expected one of {', '.join([*_FILES, 'map-in-memory'])}")
    file = paths.host_files(host) / _FILES[target]
    if not file.parent.is_dir():
        raise LabError(f"{host} has no {target}: {file.parent} does not exist")
    return file


def _map_file(host: str) -> Path:
    return paths.host_root(host) / MAP_FILE


def _map_in_memory(host: str) -> str | None:
    for line in runtime_command(host, f"show map {_map_file(host)}").splitlines():
        words = line.split()
        if len(words) == 3 and words[1] == MAP_KEY:
            return words[2]
    return None


def _set_map_in_memory(host: str, value: str | None) -> None:
    runtime_command(host, f"clear map {_map_file(host)}")
    if value is not None:
        runtime_command(host, f"add map {_map_file(host)} {MAP_KEY} {value}")


def _other_color(text: str | None) -> str:
    return "blue" if text is not None and "green" in text else "green"


_WRONG: Final[dict[str, Callable[[str | None], str]]] = {
    "marker": lambda before: f"{_other_color(before)}\n",
    "last-good": lambda _: "v0.0.1-000000000000\n",
    "map": lambda before: map_line(_other_color(before)),
    "map-in-memory": lambda before: color_backend(_other_color(before)),
}


def plan(host: str, target: str, how: str) -> tuple[str | None, str | None]:
    """The content before, and the content that spoils it in the given way."""
    before = read(host, target)
    if how == "missing" or (how == "empty" and target == "map-in-memory"):
        return before, None
    if how == "empty":
        return before, ""
    if how == "wrong":
        return before, _WRONG[target](before)
    return before, "bk_nowhere" if target == "map-in-memory" else _GARBAGE
