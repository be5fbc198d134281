"""Users are led to a site by DNS, and it counts when those who are asked answer it."""

from __future__ import annotations

import time
from collections.abc import Mapping

from sebenza_ops.changes import ChangeRun
from sebenza_ops.environments.models import Dns
from sebenza_ops.evidence.facts import GateFact, utc_now
from sebenza_ops.recovery.disaster_plan import DisasterRefusedError
from sebenza_ops.recovery.disaster_record import mark_served, save_progress
from sebenza_ops.systems.dns import Answer, DnsChangedError, answers, change, zone_of
from sebenza_ops.systems.errors import OutsideSystemError

POLL_SECONDS = 0.5
# A server that is silent for so long is taken for gone with its site: it answers nobody anything wrong.
SILENT_SECONDS = 15.0


def lead_users(run: ChangeRun, from_site: str, to_site: str) -> str:
    """Change the records to a site's addresses, with a short TTL, and wait until they are answered. Returns a summary.

    Changed already, they stay as they are.

    Raises:
        DisasterRefusedError: Somebody else has changed a record; it was left as it is.
        OutsideSystemError: The server refused, or old addresses are still answered; a retry goes on.
    """
    environment, dns = run.environment, run.environment.dns
    if dns is None:
        text = f"the inventory has no `dns`: lead users to {to_site} by hand"
        run.note(text, "warning")
        mark_served(run)
        return text
    zone = zone_of(dns)
    wanted, before = environment.public_addresses(to_site), environment.public_addresses(from_site)
    slowest = 0.0
    for name in dns.names:
        try:
            old, new = change(zone, name, values=wanted, ttl_seconds=dns.ttl_before_switch_seconds, expected=before)
        except DnsChangedError as error:
            raise DisasterRefusedError(str(error)) from error
        if old != new:
            run.note(
                f"{name}: {', '.join(old.values)} is now {', '.join(new.values)}; who has asked before may go where it "
                f"led for {old.ttl_seconds} s more",
                mark="switch",
            )
        slowest = max(slowest, await_lead(run, dns, name, wanted))
    mark_served(run)
    detail = f"{', '.join(dns.names)} leads to {to_site} ({', '.join(wanted)}), answered after {slowest:.1f} s"
    run.record([GateFact.model_validate({"name": "dns", "verdict": "pass", "detail": detail, "at": utc_now()})])
    run.note(detail, "success")
    save_progress(run, dns_seconds=slowest)
    return detail


def await_lead(run: ChangeRun, dns: Dns, name: str, wanted: tuple[str, ...]) -> float:
    """Wait until nobody answers anything else, and a server and a resolver answer this. Returns the seconds.

    Raises OutsideSystemError.
    """
    began, told = time.monotonic(), ""
    while True:
        took, found = time.monotonic() - began, answers(dns, name)
        waiting = not_yet(dns, found, wanted, silent_may_be_gone=took >= SILENT_SECONDS)
        if not waiting:
            silent = [server for server, answer in found.items() if answer.error]
            if silent:
                run.note(f"answers nothing, and so nothing wrong: {', '.join(silent)}", "warning")
            return took
        if took >= dns.propagation_timeout_seconds:
            raise OutsideSystemError(
                f"{name} is changed, but not answered by all within {dns.propagation_timeout_seconds} s: {waiting}. "
                "The change stands; clear this task to look again"
            )
        if waiting != told:
            told = waiting
            run.note(f"{name}: {waiting}")
        time.sleep(POLL_SECONDS)


def not_yet(dns: Dns, found: Mapping[str, Answer], wanted: tuple[str, ...], *, silent_may_be_gone: bool) -> str:
    """Who does not answer the new addresses, in words; empty when that is enough.

    A server or resolver that answers nothing is not waited for when it may be gone with its site; one of each must
    answer.
    """
    wanted = tuple(sorted(wanted))
    right = {server for server, answer in found.items() if answer.values == wanted}
    if not right & set(dns.servers) or not right & set(dns.resolvers):
        silent_may_be_gone = False
    return "; ".join(
        f"{server} answers {answer.words}"
        for server, answer in found.items()
        if server not in right and not (answer.error and silent_may_be_gone)
    )


def restore_ttl(run: ChangeRun, site: str) -> None:
    """Back to the records' ordinary TTL, once the site is proven; what can't be done is said, and breaks nothing."""
    dns = run.environment.dns
    if dns is None:
        return
    try:
        zone = zone_of(dns)
        for name in dns.names:
            change(zone, name, ttl_seconds=dns.ttl_seconds, expected=run.environment.public_addresses(site))
    except OutsideSystemError as error:
        run.note(f"the TTL of {', '.join(dns.names)} stays at {dns.ttl_before_switch_seconds} s: {error}", "warning")
