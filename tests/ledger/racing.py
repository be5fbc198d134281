"""What the racing processes of test_lease_races do; in a module of its own, as each process imports it anew."""

from __future__ import annotations

import os
from multiprocessing.synchronize import Barrier
from pathlib import Path

from lab.waiting import scaled
from sebenza_ops.ledger import Holder, LeaseHeld, LeaseKind, Ledger


def ask_once_a_round(url: str, name: str, rounds: int, barrier: Barrier, results: Path) -> None:
    """Ask for one lease a round, all processes at once; write down what was won."""
    ledger = Ledger.open(url)
    holder = Holder("deploy_blue_green.production", name, "thandi")
    won = []
    for number in range(rounds):
        barrier.wait(timeout=scaled(60))
        try:
            lease = ledger.leases.acquire(f"environment-{number}", holder, "race", 120)
        except LeaseHeld:
            continue
        won.append(f"{number} {lease.token}")
    (results / name).write_text("\n".join(won))


def hold_in_turns(url: str, name: str, turns: int, barrier: Barrier, results: Path) -> None:
    """Take the lease again and again; while holding it, own a file that nobody else may own."""
    ledger = Ledger.open(url)
    holder = Holder("rotate_logs.production", name, "airflow")
    witness = results / "held"
    tokens: list[int] = []
    barrier.wait(timeout=scaled(60))
    while len(tokens) < turns:
        try:
            lease = ledger.leases.acquire("production", holder, "race", 120, kind=LeaseKind.HOUSEKEEPING)
        except LeaseHeld:
            continue
        os.close(os.open(witness, os.O_CREAT | os.O_EXCL))
        tokens.append(lease.token)
        witness.unlink()
        ledger.leases.release("production", lease.token, "turn over")
    (results / name).write_text("\n".join(map(str, tokens)))


def migrate(url: str, barrier: Barrier) -> None:
    """Migrate at the same time as the others."""
    barrier.wait(timeout=scaled(60))
    Ledger.open(url).migrate()


def claim_messages(url: str, name: str, barrier: Barrier, results: Path) -> None:
    """Claim messages until none is left; write down which."""
    ledger = Ledger.open(url)
    claimed: list[int] = []
    barrier.wait(timeout=scaled(60))
    while batch := ledger.outbox.claim(limit=3):
        claimed.extend(item.id for item in batch)
    (results / name).write_text("\n".join(map(str, claimed)))
