"""A run that changes an environment: its lease, its fencing token, and what it records while it works.

Every changing task begins with `ChangeRun.begin_attempt`: the attempt gets a fencing token of its own, so that an
earlier attempt of the same task that is paused, not dead, is refused by the hosts when it wakes up.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from sebenza_ops.environments.inventory import load_inventory
from sebenza_ops.environments.models import Environment
from sebenza_ops.evidence.facts import Fact, TimelineEntry, record_all
from sebenza_ops.ledger import (
    TOKEN_GAP,
    EnvironmentFrozen,
    Holder,
    Lease,
    LeaseHeld,
    LeaseKind,
    LeaseLost,
    Ledger,
    LedgerUnavailable,
    ReservationHeld,
    RunSuperseded,
    ledger_or_journal,
    past_housekeeping,
    reconcile_pending,
)
from sebenza_ops.systems.fencing import SeenToken, changed_hosts, read_tokens
from sebenza_ops.systems.ssh import Fence

log = logging.getLogger(__name__)

# Beyond a deferred wait's own end: a triggerer that restarts and a scheduler that is busy take their time.
DEFERRAL_GRACE_SECONDS = 120.0


class ChangeRefusedError(Exception):
    """The run may not change the environment; nothing was touched. A change is never retried after it.

    Args:
        message: Why.
        is_for_now: Somebody else holds the environment; they will have ended some time.
    """

    def __init__(self, message: str, *, is_for_now: bool = False) -> None:
        super().__init__(message)
        self.is_for_now = is_for_now


def find_environment(name: str) -> Environment:
    """The environment of this name. Raises ChangeRefusedError with the inventory's problem when it can't be read."""
    inventory = load_inventory()
    environment = inventory.environments.get(name)
    if environment is None:
        problems = "; ".join(str(error) for error in inventory.errors.values())
        known = ", ".join(sorted(inventory.environments)) or "none"
        raise ChangeRefusedError(f"no environment {name!r} in the inventory (there: {known}). {problems}".strip())
    return environment


class ChangeRun:
    """One run's hold on one environment, as its tasks use it.

    Args:
        ledger: The ledger.
        environment: The environment that is changed.
        holder: The run, and who started it.
        clear_number: How often the run was cleared.
        conf: The run's conf.
        lease_name: What is held; the environment itself when None. A backup holds a lease of its own: it changes
            nothing that a deployment or a rollback would have to wait for.
    """

    def __init__(
        self,
        ledger: Ledger,
        environment: Environment,
        holder: Holder,
        clear_number: int = 0,
        conf: Mapping[str, Any] | None = None,
        *,
        lease_name: str | None = None,
    ) -> None:
        self.clear_number = clear_number
        self.conf = dict(conf or {})
        self.ledger = ledger
        self.environment = environment
        self.lease_name = lease_name or environment.name
        self.holder = holder
        self._unsaved: list[Fact] = []
        self._lost = threading.Event()
        self._fence: Fence | None = None
        self._purpose = ""
        self.is_emergency = False
        """Whether it goes on whatever others have reserved, and with a journal while the ledger can't be used."""

    @classmethod
    def from_context(
        cls,
        context: Mapping[str, Any],
        environment_name: str,
        *,
        emergency: bool = False,
        lease_suffix: str = "",
    ) -> ChangeRun:
        """The run of a task's context. An `emergency` goes on with a journal while the ledger can't be used.

        With a `lease_suffix` it holds a lease beside the environment's own: `<environment>.<suffix>`.
        """
        dag_run = context["dag_run"]
        run = cls(
            open_ledger(environment_name, holder_of(context), emergency=emergency),
            find_environment(environment_name),
            holder_of(context),
            getattr(dag_run, "clear_number", 0),
            dag_run.conf,
            lease_name=f"{environment_name}.{lease_suffix}" if lease_suffix else None,
        )
        run.is_emergency = emergency
        return run

    @property
    def is_journaled(self) -> bool:
        """Whether the ledger could not be used when this attempt began, so that it keeps a journal."""
        return self.ledger.is_journal

    @property
    def fence(self) -> Fence:
        """This attempt's fence. Only after `begin_attempt` or `acquire`."""
        if self._fence is None:
            raise RuntimeError("begin_attempt first: a change needs its fencing token")
        return self._fence

    @property
    def lease_lost(self) -> bool:
        """Whether renewing found that somebody else holds the environment now."""
        return self._lost.is_set()

    def acquire(
        self,
        purpose: str,
        ttl_seconds: float,
        seen_token: int,
        kind: LeaseKind = LeaseKind.CHANGE,
        *,
        respect_freeze: bool = False,
    ) -> Lease:
        """Take the lease with a token above the hosts' highest.

        A freeze counts at a run's beginning only: what has begun must be able to settle.
        A change waits for housekeeping that has the lease just now, as `past_housekeeping` does.
        Raises ChangeRefusedError when another run holds it, or changed the environment after this run's first attempt,
        or the environment is frozen.
        """

        def take() -> Lease:
            return self.ledger.leases.acquire(
                self.lease_name,
                self.holder,
                purpose,
                ttl_seconds,
                seen_token,
                kind=kind,
                # Housekeeping goes on while people decide, which may take hours; an emergency does not wait for them.
                respect_reservation=kind is not LeaseKind.HOUSEKEEPING and not self.is_emergency,
                respect_freeze=respect_freeze,
            )

        try:
            lease = past_housekeeping(take) if kind is LeaseKind.CHANGE else take()
        except (LeaseHeld, ReservationHeld) as error:
            raise ChangeRefusedError(str(error), is_for_now=True) from error
        except (EnvironmentFrozen, RunSuperseded) as error:
            raise ChangeRefusedError(str(error)) from error
        self._take(lease)
        return lease

    def reserve(self, purpose: str, ttl_seconds: float, *, plan_only: bool = False) -> None:
        """Announce the change while gates run and people decide; prolongs the run's own reservation.

        Raises ChangeRefusedError when another run holds or reserves the environment, or it is frozen; a run that only
        plans is never refused, and reserves nothing.
        """
        if plan_only:
            return
        leases = self.ledger.leases
        frozen = leases.current_freeze(self.environment.name)
        if frozen is not None:
            raise ChangeRefusedError(str(EnvironmentFrozen(frozen)))
        try:
            leases.reserve(self.environment.name, self.holder, purpose, ttl_seconds)
        except (LeaseHeld, ReservationHeld) as error:
            raise ChangeRefusedError(str(error), is_for_now=True) from error
        except RunSuperseded as error:
            raise ChangeRefusedError(str(error)) from error

    def has_held_lease(self) -> bool:
        """Whether this run holds the lease, or held it and has not settled the environment since."""
        name, deployment = self.environment.name, self.ledger.deployments.find(self.holder.dag_id, self.holder.run_id)
        if deployment is None:
            return False
        return any(
            lease.holder.is_run(self.holder) and lease.acquired_at >= deployment.started_at
            for lease in self.ledger.leases.history(name)
        )

    def take_over(self, purpose: str, reason: str, ttl_seconds: float, seen_token: int) -> Lease:
        """Take the lease at once, whoever holds it; that run's changes are refused from the hosts' next command on.

        Raises ChangeRefusedError when this run is itself an old one that a later change has superseded.
        """
        minimum = seen_token + TOKEN_GAP if self.is_journaled else seen_token
        try:
            lease = self.ledger.leases.take_over(
                self.lease_name, self.holder, reason, ttl_seconds, minimum, purpose=purpose
            )
        except RunSuperseded as error:
            raise ChangeRefusedError(str(error)) from error
        self._take(lease)
        return lease

    def begin_attempt(self, purpose: str, ttl_seconds: float) -> Fence:
        """A fencing token for this attempt alone. Raises ChangeRefusedError as `acquire`."""
        current = self.ledger.leases.current(self.lease_name)
        mine = current is not None and current.holder.is_run(self.holder)
        if current is not None and mine:
            lease = self.acquire(current.purpose, ttl_seconds, current.token, current.kind)
            # A wait of the same run that goes on beside this attempt counts on the longer time.
            if current.expires_at > lease.expires_at:
                self.ledger.leases.extend_until(self.lease_name, lease.token, current.expires_at)
        else:
            self.acquire(purpose, ttl_seconds, self._minimum_token())
        return self.fence

    def join(self, purpose: str, ttl_seconds: float) -> None:
        """Take part in the run's lease without a token of its own: for a step that changes nothing on hosts."""
        current = self.ledger.leases.current(self.lease_name)
        if current is not None and current.holder.is_run(self.holder):
            self._take(current)
        else:
            self.acquire(purpose, ttl_seconds, self._minimum_token())

    def _minimum_token(self) -> int:
        """What a lease that begins in the middle of the run must be above: the ledger knows by itself, a journal asks.

        Raises ChangeRefusedError when the hosts say that another run has changed the environment since.
        """
        if not self.is_journaled:
            return 0
        answers = read_tokens(self.environment, changed_hosts(self.environment)).values()
        seen = max((a for a in answers if isinstance(a, SeenToken)), key=lambda answer: answer.token, default=None)
        if seen is None:
            raise ChangeRefusedError("the ledger is down, and no host tells its fencing token: nothing was changed")
        if seen.holder != holder_word(self.holder):
            raise ChangeRefusedError(
                f"the ledger is down, and by the hosts {seen.holder} has changed {self.environment.name} since "
                f"(fencing token {seen.token}, {seen.since}). This run changes nothing more. Start a new run."
            )
        return seen.token + TOKEN_GAP

    def refence(self, ttl_seconds: float) -> None:
        """A new fencing token, so that commands of this attempt that are still under way come too late.

        A ledger that is down gives none: then the old one stays.
        """
        try:
            current = self.fence.token
            self._take(self.ledger.leases.acquire(self.lease_name, self.holder, self._purpose, ttl_seconds, current))
        except LedgerUnavailable as error:
            log.warning("no new fencing token, the ledger is down: %s", error)
        except (LeaseHeld, RunSuperseded) as error:
            raise ChangeRefusedError(str(error)) from error

    def extend_for_wait(self, wait_seconds: float) -> None:
        """Let the lease outlast a deferred wait, in which nothing of this run can renew it."""
        expires_at = datetime.now(UTC) + timedelta(seconds=wait_seconds + DEFERRAL_GRACE_SECONDS)
        current = self.ledger.leases.current(self.lease_name)
        # A step of the same run beside this one may have taken a newer token since.
        mine = current is not None and current.holder.is_run(self.holder)
        token = current.token if current is not None and mine else self.fence.token
        self.ledger.leases.extend_until(self.lease_name, token, expires_at)

    @contextmanager
    def kept_lease(self, ttl_seconds: float) -> Iterator[None]:
        """Renew the lease in the background. A ledger that is down does not stop the change: the hosts' fences hold."""
        stop = threading.Event()

        def renew() -> None:
            while not stop.wait(ttl_seconds / 4):
                try:
                    self.ledger.leases.renew(self.lease_name, self.fence.token, ttl_seconds)
                except LeaseLost as error:
                    log.error("%s", error)
                    self._lost.set()
                    return
                except LedgerUnavailable as error:
                    log.warning("The lease could not be renewed, trying again: %s", error)

        thread = threading.Thread(target=renew, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(timeout=10)

    def release(self, reason: str) -> None:
        """Give the lease back."""
        self.ledger.leases.release(self.lease_name, self.fence.token, reason)

    def note(self, text: str, level: str = "info", host: str | None = None, mark: str | None = None) -> None:
        """Add a line to the run's timeline and to the task's log."""
        log.log(logging.ERROR if level == "error" else logging.INFO, "%s%s", f"{host}: " if host else "", text)
        entry = {"at": datetime.now(UTC), "text": text, "level": level, "host": host, "mark": mark}
        self.record([TimelineEntry.model_validate(entry)])

    def record(self, facts: Iterable[Fact]) -> None:
        """Keep facts as evidence. What a ledger that is down does not take is kept for the next call."""
        self._unsaved.extend(facts)
        if not self._unsaved:
            return
        try:
            record_all(self.ledger, self.holder.dag_id, self.holder.run_id, self._unsaved)
        except LedgerUnavailable as error:
            log.warning("%d facts wait for the ledger: %s", len(self._unsaved), error)
        else:
            self._unsaved.clear()

    def tell_question(self, question: str) -> None:
        """Tell people that the run waits for an answer. That nobody could be told never keeps the question back."""
        from sebenza_ops.notify.outbox import deliver_pending, queue_question
        from sebenza_ops.notify.runs import Run

        run = Run(self.holder.dag_id, self.holder.run_id, self.clear_number, self.holder.actor, self.conf)
        try:
            if queue_question(self.ledger, run, question):
                deliver_pending(self.ledger)
        except LedgerUnavailable as error:
            log.error("nobody could be told, the ledger is down (%s): %s", error, question)

    def tell_warning(self, text: str, about: str = "") -> None:
        """Tell people what is amiss although the run goes on; each thing (`about`) once a run, whatever is tried again.

        That nobody could be told never breaks it.
        """
        from sebenza_ops.notify.outbox import deliver_pending, queue_warning
        from sebenza_ops.notify.runs import Run

        self.note(text, "warning")
        run = Run(self.holder.dag_id, self.holder.run_id, self.clear_number, self.holder.actor, self.conf)
        try:
            if queue_warning(self.ledger, run, text, about=about):
                deliver_pending(self.ledger)
        except LedgerUnavailable as error:
            log.error("nobody could be told, the ledger is down (%s): %s", error, text)

    def tell_hold(self, text: str) -> None:
        """Tell people, now, that the run holds traffic. That nobody could be told never breaks the run."""
        from sebenza_ops.notify.outbox import deliver_in_background, queue_hold
        from sebenza_ops.notify.runs import Run

        run = Run(self.holder.dag_id, self.holder.run_id, self.clear_number, self.holder.actor, self.conf)
        try:
            queue_hold(self.ledger, run, text)
        except LedgerUnavailable as error:
            log.error("nobody could be told, the ledger is down (%s): %s", error, text)
            return
        deliver_in_background(self.ledger)

    def _take(self, lease: Lease) -> None:
        self._purpose = lease.purpose
        self._fence = Fence(self.lease_name, lease.token, holder_word(self.holder))


def open_ledger(environment_name: str, holder: Holder, *, emergency: bool = False) -> Ledger:
    """The ledger, with what emergencies on this machine have kept while it was down; an emergency's journal otherwise.

    Raises LedgerUnavailable; for an emergency only when its journal can't be written either.
    """
    ledger = ledger_or_journal(environment_name, holder) if emergency else Ledger.from_connection()
    if not ledger.is_journal:
        reconcile_pending(ledger)
    return ledger


def holder_word(holder: Holder) -> str:
    """The run as the hosts keep it beside its fencing token: one word."""
    return f"{holder.dag_id}/{holder.run_id}".replace(" ", "_")


def run_key(holder: Holder) -> str:
    """A run as the name of a directory on a host: any run id, no slash, of a bounded length."""
    return hashlib.sha256(f"{holder.dag_id}/{holder.run_id}".encode()).hexdigest()[:32]


def holder_of(context: Mapping[str, Any]) -> Holder:
    """The run of a task's context, and who started it ("scheduler" for a scheduled one)."""
    dag_run = context["dag_run"]
    actor = getattr(dag_run, "triggering_user_name", None) or "scheduler"
    return Holder(dag_id=dag_run.dag_id, run_id=dag_run.run_id, actor=actor)
