"""The eight gates of a deployment: what each asks, and what their verdicts together mean. Pure rules.

Manual, Pre-deployment Checklist. Missing data is a verdict of its own, and stops a deployment as a failure does
(design, rule 2); people may waive it, except where a way back is at stake.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, get_args

from sebenza_ops.environments.policies import GateName
from sebenza_ops.evidence.facts import GateFact, GateVerdict

GATES: Final[tuple[GateName, ...]] = get_args(GateName)
QUESTIONS: Final[Mapping[str, str]] = {
    "review_approved": "Has somebody other than the author approved the change?",
    "tests_passed": "Have all tests of exactly this commit passed?",
    "security_scan": "Has no dependency a known vulnerability of the policy's severity?",
    "performance_benchmark": "Is it as fast as before?",
    "migrations_tested": "Do its migrations run on a copy of real data, and how long do they lock what?",
    "configuration_verified": "Is the configuration that it will get valid on every host, and what will change?",
    "rollback_plan": "Is there a release to go back to that exists, verifies and fits the schema?",
    "stakeholders_notified": "Was the notice delivered?",
}
# Without a way back nobody should go on, whoever says so.
NEVER_WAIVED: Final[frozenset[str]] = frozenset({"rollback_plan"})
# What a pipeline alone can know; the attestation's names are the gates'.
ATTESTED: Final[frozenset[str]] = frozenset({"review_approved", "tests_passed", "performance_benchmark"})


@dataclass(frozen=True)
class GateResult:
    """A gate's verdict, why, and where the evidence is."""

    verdict: GateVerdict
    detail: str
    link: str | None = None


@dataclass(frozen=True)
class GatesJudgement:
    """All of a run's gates together.

    Attributes:
        passed: Gates that passed.
        waivable: Gates that did not pass and may be waived, each with its detail.
        final: Gates that did not pass and may not be waived.
    """

    passed: tuple[str, ...]
    waivable: Mapping[str, str]
    final: Mapping[str, str]

    @property
    def all_passed(self) -> bool:
        """Whether nothing stands in the way."""
        return not self.waivable and not self.final

    @property
    def text(self) -> str:
        """What stands in the way, in words."""
        return "; ".join(f"{name}: {detail}" for name, detail in {**self.final, **self.waivable}.items())


def latest(facts: Iterable[GateFact]) -> dict[str, GateFact]:
    """The newest verdict of each gate, by name; a cleared run has older ones too."""
    return {fact.name: fact for fact in facts}


def judge_gates(required: Sequence[str], facts: Iterable[GateFact]) -> GatesJudgement:
    """Whether a run may go on. A gate that left no verdict (its task was killed) has no data."""
    found = latest(facts)
    passed: list[str] = []
    waivable: dict[str, str] = {}
    final: dict[str, str] = {}
    for name in required:
        fact = found.get(name)
        if fact is not None and fact.verdict in ("pass", "waived"):
            passed.append(name)
            continue
        detail = "no verdict was recorded" if fact is None else f"{shown(fact.verdict)}, {fact.detail}".rstrip(", ")
        (final if name in NEVER_WAIVED else waivable)[name] = detail
    return GatesJudgement(tuple(passed), waivable, final)


def shown(verdict: str) -> str:
    """A verdict in words."""
    return verdict.replace("_", " ")


def gates_table(required: Sequence[str], facts: Iterable[GateFact]) -> str:
    """The gates as a Markdown table, for a person who decides."""
    found = latest(facts)
    lines = ["| gate | verdict | detail |", "|---|---|---|"]
    for name in required:
        fact = found.get(name)
        verdict = shown(fact.verdict) if fact else "no data"
        detail = _cell(fact.detail if fact else "no verdict was recorded")
        if fact is not None and fact.link:
            detail += f" ([evidence]({fact.link}))"
        lines.append(f"| {name.replace('_', ' ')} | **{verdict}** | {detail} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")[:500]
