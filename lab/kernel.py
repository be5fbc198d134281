"""What faults change in the kernel: packet filter rules and mounts. All of it can be found and removed.

Rules live in chains of their own, so that the machine's rules are never touched.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

from lab import paths
from lab.waiting import LabError

_CHAIN: Final = "SEBENZA-LAB"
# The table and the built-in chain from which our chain is entered.
_HOOKS: Final = {"filter": "INPUT", "nat": "OUTPUT"}


def _iptables(*arguments: str, check: bool = True) -> bool:
    done = subprocess.run(
        [str(paths.program("iptables")), "--wait", "10", *arguments], capture_output=True, text=True, check=False
    )
    if check and done.returncode != 0:
        raise LabError(f"iptables {' '.join(arguments)} failed: {done.stderr.strip()}")
    return done.returncode == 0


def add_rules(rules: list[list[str]], table: str = "filter") -> None:
    """Add rules to the lab's chain of a table, all or none."""
    hook = _HOOKS[table]
    if not _iptables("--table", table, "--list", _CHAIN, "--numeric", check=False):
        _iptables("--table", table, "--new-chain", _CHAIN)
    if not _iptables("--table", table, "--check", hook, "--jump", _CHAIN, check=False):
        _iptables("--table", table, "--insert", hook, "--jump", _CHAIN)
    added: list[list[str]] = []
    try:
        for rule in rules:
            _iptables("--table", table, "--append", _CHAIN, *rule)
            added.append(rule)
    except LabError:
        remove_rules(added, table)
        raise


def remove_rules(rules: list[list[str]], table: str = "filter") -> None:
    """Remove rules; those that are gone already are no error."""
    for rule in rules:
        _iptables("--table", table, "--delete", _CHAIN, *rule, check=False)


def mount_tmpfs(target: Path, size_mib: int) -> None:
    """Mount an empty tmpfs of a given size over a directory."""
    _mount("-t", "tmpfs", "-o", f"size={size_mib}m,mode=0755", "sebenza-lab", str(target))


def bind(source: Path, target: Path) -> None:
    """Make a directory reachable at a second place, whatever is mounted over the first."""
    target.mkdir(parents=True, exist_ok=True)
    _mount("--bind", str(source), str(target))


def unmount(target: Path) -> None:
    """Take the topmost mount off a directory, at once; processes that use it keep it until they end."""
    subprocess.run(["umount", "--lazy", str(target)], capture_output=True, check=False)


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"mount {' '.join(arguments)} failed: {done.stderr.strip()}")


def mounts() -> list[Path]:
    """Mount points inside the lab's directory, the innermost first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place = Path(line.split()[4].replace("\\040", " "))
        if place.is_relative_to(paths.LAB_DIR) and place != paths.LAB_DIR:
            found.append(place)
    return found[::-1]


def clear() -> None:
    """Remove every rule and mount of the lab, whoever left it."""
    for table, hook in _HOOKS.items():
        while _iptables("--table", table, "--delete", hook, "--jump", _CHAIN, check=False):
            pass
        _iptables("--table", table, "--flush", _CHAIN, check=False)
        _iptables("--table", table, "--delete-chain", _CHAIN, check=False)
    for place in mounts():
        unmount(place)
