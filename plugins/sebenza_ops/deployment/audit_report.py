"""Reading what `npm audit --json` says. Pure."""

from __future__ import annotations

import json
from typing import Final

from sebenza_ops.deployment.gates import GateResult

# https://docs.npmjs.com/cli/commands/npm-audit, in rising order.
LEVELS: Final = ("low", "moderate", "high", "critical")


def judge_audit(text: str, level: str) -> GateResult:
    """Whether a dependency has a known vulnerability of the severity or above.

    Args:
        text: The output, one JSON document (warnings may come before it).
        level: One of `LEVELS`.

    Returns: "no_data" when the registry gave no report: an error is JSON too, and has no counts.
    """
    try:
        report = json.loads(text[text.index("{") :])
        counts = {name: int(report["metadata"]["vulnerabilities"][name]) for name in LEVELS}
        dependencies = int(report["metadata"]["dependencies"]["prod"])
    except (ValueError, KeyError, TypeError):
        return GateResult("no_data", f"npm audit gave no report: {_problem(text)}")
    relevant = {name: counts[name] for name in LEVELS[LEVELS.index(level) :] if counts[name]}
    below = sum(counts.values()) - sum(relevant.values())
    if relevant:
        found = ", ".join(f"{count} {name}" for name, count in relevant.items())
        packages = ", ".join(sorted(report.get("vulnerabilities", {}))[:10])
        return GateResult("fail", f"{found} vulnerabilities ({packages}); the threshold is {level}")
    rest = f"; {below} below it" if below else ""
    return GateResult("pass", f"no vulnerability of {level} or above in {dependencies} dependencies{rest}")


def _problem(text: str) -> str:
    try:
        found = json.loads(text[text.index("{") :])
        return " ".join(str(found.get("message") or found.get("error") or found).split())[:200]
    except ValueError:
        return " ".join(text.split())[:200] or "it said nothing"
