"""No test asserts how long something takes: on a slow or busy machine it would fail for no reason.

What is asserted is the property behind the number: the order of events, how often something was asked, that it did
not wait for what has not happened. A time may be bounded from below ("not before"), or by one measured around it.
Numbers are the benchmarks' (`make bench`). What is awaited is awaited with `lab.waiting`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CLOCKS = {"monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time", "time", "time_ns", "now"}
# What is called so is a time that something took.
TIMES = re.compile(r"(^|_)(seconds|milliseconds|ms|elapsed|took|duration|latency|age)$")
# Methods that wait, by the name of the argument that says how long.
WAITS = {"wait", "join", "communicate", "run", "check_output", "check_call", "result"}

# File and function, and why this is no number that a slow machine misses.
ALLOWED = {
    ("lab/chaos/scenarios/leases.py", "_zombie_after_another_run"): "looks for that long at what must not happen",
    ("lab/mailbox/client.py", "await_message"): "the rest of a time that was scaled, which the mailbox itself waits",
    ("tests/backup/test_projection.py", "test_files_and_a_days_wal_are_projected_by_their_own_rates"): "given numbers",
}


def _name(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        return str(node.slice.value)
    if isinstance(node, ast.Call):
        return _name(node.func)
    return ""


def _reads_clock(node: ast.AST) -> bool:
    return any(isinstance(each, ast.Call) and _name(each) in CLOCKS for each in ast.walk(node))


def _is_given(node: ast.AST) -> bool:
    """Whether it is a number of seconds as it stands there: a moment less that is a moment."""
    return isinstance(node, ast.Constant) or (isinstance(node, ast.Call) and _name(node) == "timedelta")


class _Function:
    """What the names of one function stand for."""

    def __init__(self, function: ast.AST) -> None:
        self.moments: set[str] = set()
        self.measured: set[str] = set()
        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and len(node.targets) == 1:
                names = {each.id for each in ast.walk(node.targets[0]) if isinstance(each, ast.Name)}
                if self.is_measured(node.value):
                    self.measured |= names
                elif _reads_clock(node.value):
                    self.moments |= names

    def _is_moment(self, node: ast.AST) -> bool:
        return _reads_clock(node) or any(
            isinstance(each, ast.Name) and each.id in self.moments for each in ast.walk(node)
        )

    def is_measured(self, node: ast.AST) -> bool:
        """Whether it is a time that was measured here: a difference with a clock."""
        for each in ast.walk(node):
            is_difference = isinstance(each, ast.BinOp) and isinstance(each.op, ast.Sub) and not _is_given(each.right)
            if is_difference and self._is_moment(each):
                return True
            if isinstance(each, ast.Name) and each.id in self.measured:
                return True
            if _name(each) == "total_seconds":
                return True
        return False

    def is_time(self, node: ast.AST) -> bool:
        """Whether it is a time that something took, measured here or elsewhere."""
        if isinstance(node, ast.Set | ast.List | ast.Tuple | ast.Dict) or _is_given(node):
            return False
        return self.is_measured(node) or any(TIMES.search(_name(each)) for each in ast.walk(node))

    def is_bound(self, node: ast.AST) -> bool:
        """Whether it was measured around what it bounds: a time, or the moment after it."""
        return self.is_measured(node) or _reads_clock(node)


def _bounds(compare: ast.Compare) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Pairs of what is bounded from above and its bound."""
    sides = [compare.left, *compare.comparators]
    for left, operator, right in zip(sides, compare.ops, sides[1:], strict=False):
        if isinstance(operator, ast.Lt | ast.LtE):
            yield left, right
        elif isinstance(operator, ast.Gt | ast.GtE):
            yield right, left


def _asserted(function: ast.AST) -> Iterator[int]:
    """Lines of asserts that bound from above how long something took."""
    names = _Function(function)
    for node in ast.walk(function):
        if not isinstance(node, ast.Assert):
            continue
        for compare in (each for each in ast.walk(node.test) if isinstance(each, ast.Compare)):
            for bounded, bound in _bounds(compare):
                if isinstance(bounded, ast.Call) and _name(bounded) in CLOCKS:
                    # The clock against a moment, which was set before.
                    yield node.lineno
                elif names.is_time(bounded) and not names.is_bound(bound):
                    yield node.lineno


def _deadlines(tree: ast.AST) -> Iterator[int]:
    """Lines of loops that count on a clock by themselves."""
    for node in ast.walk(tree):
        if isinstance(node, ast.While):
            inside = [each for each in ast.walk(node) if isinstance(each, ast.If | ast.Assert | ast.While)]
            for compare in (each for branch in inside for each in ast.walk(branch.test)):
                if isinstance(compare, ast.Compare) and any(
                    isinstance(side, ast.Call) and _name(side) in CLOCKS
                    for side in (compare.left, *compare.comparators)
                ):
                    yield compare.lineno


def _constant_waits(tree: ast.AST) -> Iterator[int]:
    """Lines that wait for a process or thread no longer than a number of seconds, whatever the machine."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in WAITS:
            given = [each.value for each in node.keywords if each.arg == "timeout"]
            given += node.args[:1] if node.func.attr in {"wait", "join"} else []
            for value in given:
                # Less than a second is a pause between two looks.
                if isinstance(value, ast.Constant) and isinstance(value.value, int | float) and value.value >= 1:
                    yield node.lineno


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def _found(text: str, file: str = "") -> list[str]:
    tree = ast.parse(text)
    lines = {line: "waits a constant time: lab.waiting.scaled(...)" for line in _constant_waits(tree)}
    for function in _functions(tree):
        if (file, function.name) in ALLOWED:
            continue
        said = "counts seconds by itself: lab.waiting waits by progress and machine"
        lines |= dict.fromkeys(_deadlines(function), said)
        lines |= dict.fromkeys(_asserted(function), "asserts how long something took")
    return [f"{file}:{line}: {what}" for line, what in sorted(lines.items())]


def test_what_is_allowed_is_there() -> None:
    for file, function in ALLOWED:
        assert function in {each.name for each in _functions(ast.parse((ROOT / file).read_text()))}


@pytest.mark.parametrize("wing", ["tests", "lab", "benchmarks"])
def test_nothing_depends_on_a_number_of_seconds(wing: str) -> None:
    found = [
        line
        for path in sorted((ROOT / wing).rglob("*.py"))
        if "node_modules" not in path.parts
        for line in _found(path.read_text(), str(path.relative_to(ROOT)))
    ]

    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "assert time.monotonic() - began < 10",
        "assert 10 > time.monotonic() - began",
        "assert (done, time.monotonic() - began < 10) == (1, True)",
        "took = time.monotonic() - began\n    assert took < 2",
        "assert report.seconds < READY_SECONDS * others",
        "assert outcome['rpo_seconds'] <= 60",
        "assert 0 < pause_ms < 5000",
        "assert abs(sample.at - time.time()) < 10",
        "assert max(answer.elapsed.total_seconds() for answer in answers) < 1",
        "assert datetime.now(UTC) - started < timedelta(minutes=2)",
        "while not done():\n        assert time.monotonic() < deadline",
        "while time.monotonic() < deadline and not done():\n        pass",
        "while not done():\n        if time.monotonic() > give_up_at:\n            raise LookupError",
        "process.wait(10)",
        "process.wait(timeout=10)",
        "subprocess.run(argv, timeout=20)",
        "thread.join(5)",
    ],
)
def test_the_kind_is_found(line: str) -> None:
    assert _found(f"def test_it():\n    began = time.monotonic()\n    {line}\n")


@pytest.mark.parametrize(
    "line",
    [
        "assert time.monotonic() - began >= 1.0",
        "assert found['interrupted_seconds'] > 0",
        "assert 0 < found['pause_ms'] <= (time.monotonic() - began) * 1000",
        "assert before <= message.at <= time.time()",
        "assert before - timedelta(seconds=1) <= message.at <= datetime.now(UTC) + timedelta(seconds=1)",
        "assert lease.expires_at - lease.acquired_at > timedelta(seconds=60)",
        "assert {'rpo_seconds'} <= detail.keys()",
        "assert len(seen) < 3",
        "process.wait(scaled(10))",
        "while not stop.wait(0.02):\n        pass",
        "'-'.join(parts)",
    ],
)
def test_what_is_no_such_thing_is_let_be(line: str) -> None:
    assert _found(f"def test_it():\n    began = time.monotonic()\n    {line}\n") == []
