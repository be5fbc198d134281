"""Findings: open until an entry of the audit says what was done."""

from __future__ import annotations

import pytest

from sebenza_ops.ledger import Ledger, RecordUnknown
from sebenza_ops.ledger.findings import CLOSED, OPENED


def opened(ledger: Ledger, subject: str, environment: str = "production") -> int:
    detail = {"run": "disaster_recovery_drill.production/1", "owner": "devops", "finding": f"{subject} was missed"}
    return ledger.audit.append(OPENED, "scheduler", environment, subject, detail).id


def test_a_finding_is_open_until_it_is_closed_with_what_was_done(ledger: Ledger) -> None:
    first, second = opened(ledger, "RPO"), opened(ledger, "MTTR")
    other = opened(ledger, "RPO", "staging")
    assert [each.id for each in ledger.findings.open_ones("production")] == [second, first]
    found = ledger.findings.find("production", first)
    assert (found.subject, found.owner) == ("RPO", "devops")
    assert found.words == f"finding {first} (RPO), owner devops: RPO was missed"
    assert ledger.findings.close("production", first, "the line was doubled", "thandi", "close/1", "lindiwe")
    assert [each.id for each in ledger.findings.open_ones("production")] == [second]
    assert [each.id for each in ledger.findings.open_ones("staging")] == [other]
    entry = ledger.audit.entries(environment="production", action=CLOSED)[0]
    assert (entry.actor, entry.subject) == ("thandi", str(first))
    assert (entry.detail["done"], entry.detail["approved_by"]) == ("the line was doubled", "lindiwe")


def test_it_is_closed_once_and_stays_in_the_audit(ledger: Ledger) -> None:
    number = opened(ledger, "RPO")
    assert ledger.findings.close("production", number, "mended", "thandi", "close/1", "lindiwe")
    assert not ledger.findings.close("production", number, "mended again", "thandi", "close/1", "lindiwe")
    assert len(ledger.audit.entries(action=CLOSED)) == 1
    assert [entry.id for entry in ledger.audit.entries(action=OPENED)] == [number]


def test_what_is_no_open_finding_is_refused_with_those_that_are(ledger: Ledger) -> None:
    number = opened(ledger, "RPO")
    with pytest.raises(RecordUnknown, match=f"no open finding {number + 5}; open: finding {number} .RPO."):
        ledger.findings.find("production", number + 5)
    with pytest.raises(RecordUnknown, match="staging has no finding"):
        ledger.findings.close("staging", number, "mended", "thandi", "close/1", "lindiwe")
    ledger.findings.close("production", number, "mended", "thandi", "close/1", "lindiwe")
    with pytest.raises(RecordUnknown, match="open: none is"):
        ledger.findings.find("production", number)
