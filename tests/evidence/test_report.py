"""What a report says, in HTML and for a terminal."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from sebenza_ops.evidence import summary
from sebenza_ops.evidence.facts import CounterSnapshot, Fact, OutcomeFact, ProofFact, RunEvidence, TimelineEntry
from sebenza_ops.evidence.report import render_report, render_text
from tests.evidence import samples

HOSTILE = "</style><script>alert(1)</script><img src=x onerror='alert(2)'>{{ 7 * 7 }}"


class _Text(HTMLParser):
    """Collects a page's visible text and its tags."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self._hidden = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self._hidden = tag in ("style", "title")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("style", "title"):
            self._hidden = False

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def read(html: str) -> _Text:
    parser = _Text()
    parser.feed(html)
    return parser


def of(*facts: Fact) -> RunEvidence:
    return samples.collect(list(facts))


def outcome(kind: str, **fields: str) -> OutcomeFact:
    return OutcomeFact.model_validate({"outcome": kind, "summary": "A sentence", **fields})


def test_a_procedure_that_moves_no_requests_says_what_is_so_now() -> None:
    page = read(render_report(of(outcome("succeeded", state="db2 is the database's primary")), samples.header(60))).text
    assert "State now: db2 is the database's primary" in page
    assert "this procedure moves no requests from one color to another" in page
    assert "What was planned is in the timeline." in page
    assert "can't be shown" not in page


def test_the_verdict_comes_first_and_numbers_follow() -> None:
    page = read(render_report(samples.collect(samples.succeeded_facts()), samples.header(370))).text
    places = [
        page.index(part)
        for part in (
            "Blue-green deployment · production",
            "Succeeded v1.1.0 is live on green on both load balancers, with no failed request",
            "State now: green is live, release v1.1.0-9f31c02ab7de",
            "Duration 6 min 10 s",
            "Requested by thandi Approved by sipho",
            "Start to switch 1 min 02 s Bake 5 min 01 s",
            "Proof, from two independent sources",
            "20 on new connections, 20 on kept connections, 40 answered by the expected color",
            "+14,891 12 → 14,903",
            "From v1.0.0-0a1b2c3d4e5f on blue to v1.1.0-9f31c02ab7de on green: 6 changes on 4 hosts.",
            "+1:02 08:58:33 Traffic switched to green on lb1 and lb2 in 0.04 s",
        )
    ]
    assert places == sorted(places)


def test_requests_and_errors_are_the_sums_of_the_series() -> None:
    evidence = samples.collect(samples.rolled_back_facts())
    requests = sum(sample.requests for sample in evidence.traffic)
    errors = sum(sample.errors for sample in evidence.traffic)
    page = read(render_report(evidence, samples.header(104))).text
    assert errors > 0
    assert f"{requests:,.0f} requests and {errors:.0f} errors in all, on green." in page
    assert f"Errors (5xx) {errors:.0f} {errors / requests:.3%} of requests" in page


def test_every_value_is_escaped() -> None:
    facts: list[Fact] = [
        fact.model_copy(update={name: HOSTILE for name, value in fact if isinstance(value, str) and _is_free(name)})
        for fact in samples.rolled_back_facts()
    ]
    header = samples.header(104, requested_by=HOSTILE, run_id=HOSTILE)
    html = render_report(samples.collect(facts), header, notices=[HOSTILE])
    page = read(html)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.text.count("{{ 7 * 7 }}") > 10
    assert html.count("</style>") == 1


def _is_free(name: str) -> bool:
    return name not in {"level", "mark", "verdict", "outcome", "source", "color", "load_balancer", "backend", "step"}


@pytest.mark.parametrize("link", ["javascript:alert(1)", "data:text/html,x", "//elsewhere.example/x"])
def test_a_link_that_is_no_address_is_not_a_link(link: str) -> None:
    gate = samples.gate(link)
    hrefs = [value for name, value in read(render_report(of(gate), samples.header(9))).attributes if name == "href"]
    assert link not in hrefs


def test_the_page_needs_nothing_else() -> None:
    html = render_report(samples.collect(samples.succeeded_facts()), samples.header(370))
    assert not re.search(r"<(script|link|iframe|object|img)\b", html)
    assert not re.search(r"(url\(|@import\s)['\"]?(https?:)?//", html)
    assert "@media print" in html


def test_empty_sections_say_why() -> None:
    running = read(render_report(of(), samples.header(None, 1))).text
    assert "In progress Nothing is recorded yet" in running
    assert "No proof is recorded: the run has not come that far yet." in running
    refused = read(render_report(of(outcome("refused")), samples.header(1))).text
    assert "No traffic was measured: the run was refused before it changed anything." in refused
    planned = read(render_report(of(outcome("planned")), samples.header(1))).text
    assert "this run only planned, it moved no traffic" in planned


def test_a_run_that_died_is_not_called_a_success() -> None:
    evidence = of(TimelineEntry(at=samples.at(5), text="Planned: v1.1.0"))
    page = read(render_report(evidence, samples.header(9, run_state="failed"))).text
    assert "Outcome not recorded Airflow says the run is 'failed'" in page
    assert "The last thing it recorded, at 08:57:36 UTC: Planned: v1.1.0" in page
    assert "State now: not recorded: run check_environment.production" in page
    marked_by_hand = summary.verdict(evidence, samples.header(9, run_state="success"))
    assert marked_by_hand.tone == "error"


def test_a_split_names_no_color_as_live() -> None:
    header = samples.header(9)
    assert "not recorded" in summary.state_now(of(outcome("split")), header)
    assert summary.verdict(of(outcome("split")), header).tone == "error"


def test_what_changed_nothing_leaves_what_was_live() -> None:
    rejected = OutcomeFact(
        outcome="rejected", summary="no", live_color="blue", live_release=None, failed_task="approve", at=samples.at(9)
    )
    header = samples.header(9)
    assert summary.state_now(of(samples._plan(), rejected), header) == "blue is live, release v1.0.0-0a1b2c3d4e5f"
    elsewhere = rejected.model_copy(update={"live_color": "green"})
    assert summary.state_now(of(samples._plan(), elsewhere), header) == "green is live, release not recorded"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (10, "blue is live, this run has not moved traffic yet"),
        (samples.SWITCH_SECONDS + 1, "traffic was moved to green at 08:58:33 UTC, and the run is not done"),
    ],
)
def test_the_state_of_a_running_deployment(seconds: float, expected: str) -> None:
    facts = [
        fact
        for fact in samples.in_progress_facts()
        if not isinstance(fact, TimelineEntry) or fact.at <= samples.at(seconds)
    ]
    assert summary.state_now(samples.collect(facts), samples.header(None, seconds)) == expected


def test_a_proof_without_its_second_source_shows_the_gap() -> None:
    proof = ProofFact(source="requests", load_balancer="lb1", passed=True, expected_color="green", detail={"fresh": 20})
    page = read(render_report(of(proof), samples.header(9))).text
    assert "not recorded" in page
    assert "The switch of lb1 is proven by one source only" in page


def test_a_counter_that_was_reset_shows_no_difference() -> None:
    def snapshot(label: str, seconds: float, requests: int) -> CounterSnapshot:
        return CounterSnapshot(
            at=samples.at(seconds),
            label=label,
            load_balancer="lb1",
            backend="bk_blue",
            color="blue",
            requests_total=requests,
            responses_5xx=0,
            sessions_current=0,
        )

    page = read(render_report(of(snapshot("before", 1, 900), snapshot("after", 2, 20)), samples.header(9))).text
    assert "reset meanwhile 900 → 20" in page
    alone = read(render_report(of(snapshot("before", 1, 900)), samples.header(9))).text
    assert "one moment only" in alone
    assert "lb1 has counters of bk_blue from one moment only (before)" in alone


def test_holes_in_the_series_are_stated() -> None:
    evidence = samples.collect(samples.succeeded_facts())
    holed = [sample for sample in evidence.traffic if not 100 <= sample.at - samples.START.timestamp() < 120]
    found = summary.missing(evidence.model_copy(update={"traffic": tuple(holed)}), samples.header(370))
    assert [sentence for sentence in found if sentence.startswith("No samples of lb1 for 21 s after 08:59:10 UTC")]
    assert not [sentence for sentence in summary.missing(evidence, samples.header(370)) if "No samples" in sentence]


def test_judgements_in_a_row_are_folded() -> None:
    evidence = samples.collect(samples.rolled_back_facts())
    spans = summary.judgement_spans(evidence.judgements)
    assert [(span.first.verdict, span.times) for span in spans] == [("pass", 5), ("fail", 1)]
    page = read(render_report(evidence, samples.header(104))).text
    assert "error_ratio: 8.1% of 372 requests failed on green, limit 5.0%" in page


def test_the_terminal_gets_the_same_facts() -> None:
    text = render_text(samples.collect(samples.rolled_back_facts()), samples.header(104, run_state="failed"))
    lines = text.splitlines()
    assert lines[0] == "Blue-green deployment, production"
    assert lines[1] == "ROLLED BACK: v1.1.0 failed its bake with 8.1% errors and was taken out of traffic after 10 s"
    assert lines[2] == "State now: blue is live, release v1.0.0-0a1b2c3d4e5f"
    assert "lb1, switch to green, requests sent through it: passed." in text
    assert "marked bad; deploy it again only with force and a reason." in text
    assert max(map(len, lines)) <= 100
    assert "<" not in text


def test_the_terminal_can_show_an_empty_run() -> None:
    text = render_text(of(), samples.header(None, 1, requested_by=None))
    assert "IN PROGRESS: Nothing is recorded yet" in text
    assert "Airflow does not say who requested the run." in text
