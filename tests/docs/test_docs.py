"""The documentation leads where it says, and leaves nothing out that can be derived."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import paths
from sebenza_ops.deployment.judge import LONG_WINDOWS_SECONDS, MINIMUM_ERRORS, SHORT_WINDOWS_SECONDS
from sebenza_ops.environments.policies import BackupBeforeChangePolicy, BlueGreenPolicy, MigrationPolicy
from sebenza_ops.systems.scratch_database import STALE_FACTOR

DOCS = paths.CHECKOUT / "docs"
PAGES = sorted([paths.CHECKOUT / "README.md", *DOCS.rglob("*.md")])
DAG_FILES = sorted(path for path in (paths.CHECKOUT / "dags").rglob("*.py") if "@dag(" in path.read_text())

# The headings of the operations manual below its title and its table of contents, in its order.
MANUAL_HEADINGS = """
## Overview
### Operational Objectives
### Team Responsibilities
#### DevOps Team
#### Development Team
#### Support Team
## System Architecture
### Production Environment Overview
### Component Specifications
#### Application Servers
#### Database Cluster
#### Load Balancer
## Environment Management
### Environment Overview
#### Production Environment
#### Staging Environment
#### Development Environment
### Environment Configuration
#### Environment Variables
#### Configuration Management
## Deployment Procedures
### Standard Deployment Process
#### Pre-deployment Checklist
#### Deployment Steps
#### Blue-Green Deployment
### Rollback Procedures
#### Automatic Rollback Triggers
#### Manual Rollback Process
## Monitoring and Alerting
### Application Monitoring
#### Key Metrics
#### Monitoring Stack
#### Application Metrics Collection
### Alert Configuration
#### Critical Alerts
#### Alert Routing
### Logging Strategy
#### Log Levels and Categories
#### Log Management
## Backup and Recovery
### Backup Strategy
#### Database Backups
#### Application Backups
### Recovery Procedures
#### Database Recovery
#### Point-in-Time Recovery
### Disaster Recovery
#### Recovery Time Objectives
#### Disaster Recovery Plan
## Performance Management
### Performance Monitoring
#### Key Performance Indicators
### Performance Optimization
#### Application-Level Optimization
#### Caching Strategy
### Load Testing
#### Performance Testing Strategy
## Maintenance Procedures
### Routine Maintenance
#### Daily Tasks
#### Weekly Tasks
#### Monthly Tasks
### Maintenance Windows
#### Scheduled Maintenance
## Incident Management
### Incident Response Process
#### Severity Levels
#### Incident Response Workflow
### Post-Incident Review
#### Post-Mortem Process
## Capacity Planning
### Resource Planning
#### Capacity Metrics Collection
#### Scaling Strategies
""".strip().splitlines()

_FENCED = re.compile(r"^([ \t]*)(```|~~~).*?^\1\2[ \t]*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def _prose(page: Path) -> str:
    """The page without its code, in which brackets and hashes mean something else."""
    lines = _FENCED.sub("", page.read_text()).splitlines()
    return re.sub(r"`[^`\n]*`", "`code`", "\n".join(line for line in lines if not line.startswith("    ")))


def _headings(page: Path) -> list[str]:
    lines = _FENCED.sub("", page.read_text()).splitlines()
    return [line.rstrip() for line in lines if re.match(r"#{1,6} ", line)]


def _anchors(page: Path) -> set[str]:
    """Anchors as GitHub makes them: small letters, no punctuation, a dash for a blank, a number for a repetition."""
    anchors: set[str] = set()
    for heading in _headings(page):
        base = re.sub(r"[^\w\- ]", "", heading.lstrip("#").strip().lower()).replace(" ", "-")
        anchor, number = base, 0
        while anchor in anchors:
            number += 1
            anchor = f"{base}-{number}"
        anchors.add(anchor)
    return anchors


def _broken_links(page: Path) -> Iterator[str]:
    for target in _LINK.findall(_prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists():
            yield f"{target}: no such file"
        elif anchor and anchor not in _anchors(file):
            yield f"{target}: no such heading in {file.name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    assert list(_broken_links(page)) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n## What it's for\n\n[a](#what-its-for) [b](#nowhere) [c](gone.md) ![d](gone.png)\n")
    assert list(_broken_links(page)) == [
        "#nowhere: no such heading in page.md",
        "gone.md: no such file",
        "gone.png: no such file",
    ]


def test_the_index_names_every_page() -> None:
    index = (DOCS / "README.md").read_text()
    missing = [page.name for page in DOCS.glob("*.md") if page.name != "README.md" and f"]({page.name}" not in index]
    assert missing == []


def _procedure(path: Path) -> str:
    """The name of a file's procedure: what it gives to `procedure_id`, or its `dag_id`."""
    found = re.search(r'procedure_id\("(\w+)"|dag_id="(\w+)"', path.read_text())
    assert found is not None, f"{path.name} has no DAG id that this test can read"
    return found.group(1) or found.group(2)


@pytest.mark.parametrize("path", DAG_FILES, ids=lambda path: path.stem)
def test_every_procedure_is_in_the_index_and_in_the_manual(path: Path) -> None:
    name = _procedure(path)
    for page in (DOCS / "README.md", DOCS / "manual.md"):
        assert re.search(rf"`{name}[.`]", page.read_text()), f"{page.name} does not mention {name}"


def _conf_keys(path: Path) -> list[str]:
    """The keys of the mappings that a DAG file gives as `params`."""
    mappings = [
        keyword.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "params" and isinstance(keyword.value, ast.Dict)
    ]
    constants = [key for mapping in mappings for key in mapping.keys if isinstance(key, ast.Constant)]
    return [str(constant.value) for constant in constants]


@pytest.mark.parametrize("name", ["build_release", "deploy_blue_green", "migrate_contract", "stop_idle_color"])
def test_the_deployment_page_explains_every_conf_key(name: str) -> None:
    keys = _conf_keys(paths.CHECKOUT / "dags" / "deployment" / f"{name}.py")
    assert keys
    section = re.split(rf"^## {name}$", (DOCS / "deployment.md").read_text(), flags=re.MULTILINE)[1]
    section = re.split(r"^## ", section, flags=re.MULTILINE)[0]
    assert [key for key in keys if f"| `{key}` |" not in section] == []


def test_the_deployment_page_explains_every_task() -> None:
    text = (paths.CHECKOUT / "dags" / "deployment" / "deploy_blue_green.py").read_text()
    tasks = re.findall(r'task_id="(\w+)"', text)
    assert len(tasks) > 5
    headings = _headings(DOCS / "deployment.md")
    assert [task for task in tasks if f"#### {task}" not in headings] == []


def test_the_deployment_page_has_the_policys_numbers() -> None:
    page = " ".join((DOCS / "deployment.md").read_text().split())
    policy = BlueGreenPolicy()
    for name in ("bake", "keep_warm", "health_timeout", "hold_timeout", "notify_hold_after", "lease_ttl"):
        value = getattr(policy, f"{name}_seconds")
        assert f"{value} s (`{name}_seconds`)" in page, name
    assert f"more than {policy.error_ratio_threshold:.0%}" in page
    assert f"above {policy.response_time_threshold_seconds:g} s" in page
    assert f"fewer than {policy.minimum_requests} requests" in page
    assert f"only with {MINIMUM_ERRORS} errors or more" in page
    short = [f"{window:g}" for window in SHORT_WINDOWS_SECONDS]
    assert f"{', '.join(short[:-1])} or {short[-1]} s" in page
    assert " or ".join(f"{window:g} s" for window in LONG_WINDOWS_SECONDS) in page


def test_the_deployment_page_has_the_migrations_numbers() -> None:
    page = " ".join((DOCS / "deployment.md").read_text().split())
    policy = MigrationPolicy()
    assert f"waits {policy.lock_timeout_milliseconds / 1000:g} s for a lock" in page
    assert f"again after {policy.attempt_pause_seconds:g} s, {policy.lock_attempts} times in all" in page
    assert f"ended after {policy.statement_timeout_seconds} s (`statement_timeout_seconds`)" in page
    assert f"all of an attempt after {policy.timeout_seconds} s" in page
    assert f"more than {policy.maximum_blocking_seconds:g} s (`maximum_blocking_seconds`)" in page
    assert f"{policy.test_timeout_seconds * STALE_FACTOR // 60} minutes later" in page
    assert f"newest {BackupBeforeChangePolicy().keep} of an environment are kept" in page


def test_the_manuals_page_has_every_section_of_the_manual_in_its_order() -> None:
    assert [heading for heading in _headings(DOCS / "manual.md") if not heading.startswith("# ")] == MANUAL_HEADINGS
