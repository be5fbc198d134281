"""Carrying a proof out: recorded as evidence, and asked for again while answers are missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, NoReturn

from sebenza_ops.changes import ChangeRun
from sebenza_ops.deployment.judge import Trigger
from sebenza_ops.deployment.progress import Progress
from sebenza_ops.deployment.proof import (
    RequestProof,
    counter_snapshots,
    missing_answers,
    proof_facts,
    prove_by_counters,
    prove_by_requests,
    wrong_answers,
)
from sebenza_ops.deployment.reconcile import LoadBalancerStates
from sebenza_ops.deployment.traffic import TrafficControl
from sebenza_ops.environments.models import Color

# Whether the run's proof still lacks answers, kept over kills.
UNPROVEN: Final = "unproven"


@dataclass(frozen=True)
class Findings:
    """What a proof has found.

    Args:
        after: The load balancers' states at its end.
        wrong: What contradicts it, in words. Empty: nothing does.
        missing: Who has not answered, in words. Empty as well: it is proven.
        guilty: An answer came from elsewhere or failed, which is the release's doing; counters alone may have other
            reasons.
    """

    after: LoadBalancerStates
    wrong: list[str]
    missing: list[str]
    guilty: bool


class Proof:
    """The proof that all traffic goes to a color's release.

    Args:
        run: The run's hold on the environment.
        control: The load balancers.
        progress: What survives a kill.
        color: The color.
        release_id: The release; None: whichever.
        requests_each: So many requests, fresh and again on a kept connection, through each load balancer.
        step: What is proven, for the evidence: "switch", "switch back", "rollback".
    """

    def __init__(
        self,
        run: ChangeRun,
        control: TrafficControl,
        progress: Progress,
        color: Color,
        release_id: str | None,
        requests_each: int,
        step: str,
    ) -> None:
        self._run, self._control, self._progress = run, control, progress
        self._color, self._release_id, self._requests_each, self._step = color, release_id, requests_each, step
        self._thread: ThreadPoolExecutor | None = None
        self._asking: Future[dict[str, RequestProof]] | None = None
        self._missing: Sequence[str] = ("answers to the proof's requests are missing",)

    def prove(self, label: str) -> Findings:
        """Prove by both sources, and record what they said; `label` names the moment of the counters that are kept."""
        before = self._control.states()
        requests = self._ask()
        after = self._control.states()
        counters = prove_by_counters(self._run.environment, self._color, before, after)
        self._run.record(
            [
                *proof_facts(self._color, requests, counters, self._step),
                *counter_snapshots(self._run.environment, after, label),
            ]
        )
        for name, proof in counters.items():
            if proof.reason:
                self._run.note(f"proof of the {self._step} without its counters: {name}: {proof.reason}", "warning")
        wrong = wrong_answers(self._color, self._release_id, requests, counters)
        found = Findings(
            after, wrong, missing_answers(requests), any(proof.answered_wrongly for proof in requests.values())
        )
        if not found.wrong and not found.missing:
            text = f"proof of the {self._step}: requests and counters agree, all traffic goes to {self._color}"
            self._run.note(text, "success")
        return found

    def complete_later(self, missing: Sequence[str]) -> None:
        """Go on asking in the background; `still_missing` tells how it stands."""
        self._missing = missing
        self._progress.save(**{UNPROVEN: True})
        self._run.note(f"the {self._step} is not proven yet: {'; '.join(missing)}. Asking again", "warning")
        self._ask_in_background()

    def still_missing(self, undo: Callable[[str, Trigger | None], NoReturn]) -> Sequence[str]:
        """What the proof still lacks, in words; empty when it is complete. A wrong answer undoes at once."""
        if not self._progress.flag(UNPROVEN):
            return ()
        if self._asking is None:
            # An attempt that was killed had gone on asking.
            self._ask_in_background()
        assert self._asking is not None
        if not self._asking.done():
            return self._missing
        requests = self._asking.result()
        wrong = wrong_answers(self._color, self._release_id, requests, {})
        self._missing = missing_answers(requests)
        if self._missing and not wrong:
            self._ask_in_background()
            return self._missing
        self._run.record(proof_facts(self._color, requests, {}, self._step))
        if wrong:
            undo(f"the proof of the {self._step} failed: {'; '.join(wrong)}", Trigger.HEALTH)
        self._progress.save(**{UNPROVEN: False})
        self._run.note(f"proof of the {self._step}: answers are complete, all come from {self._color}", "success")
        return ()

    def close(self) -> None:
        """Ask no more."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def _ask(self) -> dict[str, RequestProof]:
        return prove_by_requests(self._run.environment, self._color, self._release_id, self._requests_each)

    def _ask_in_background(self) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="proof")
        self._asking = self._thread.submit(self._ask)
