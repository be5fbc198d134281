"""What the client of Airflow's API asks for again, and what it does not."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from lab.airflow.client import AirflowApiError, AirflowClient
from lab.airflow.follow import conclusion

BUSY = {"reason": "Database error", "statement": "hidden", "orig_error": "hidden"}


class Api(BaseHTTPRequestHandler):
    """Answers each request but the one for a token with the next of `answers`."""

    answers: ClassVar[list[tuple[int, object]]] = []
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer()

    def _answer(self) -> None:
        answer: tuple[int, object] = (201, {"access_token": "token"})
        if self.path != "/auth/token":
            self.asked.append(self.path)
            answer = self.answers.pop(0)
        status, body = answer
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def client() -> Iterator[AirflowClient]:
    Api.answers.clear()
    Api.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    with AirflowClient(f"http://127.0.0.1:{server.server_port}", "operator", "secret", patience_seconds=10) as client:
        yield client
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_change_that_the_busy_database_rolled_back_is_asked_for_again(client: AirflowClient) -> None:
    Api.answers += [(500, {"detail": BUSY}), (500, {"detail": BUSY}), (200, {"task_instances": [{"task_id": "a"}]})]
    assert client.clear("dag", "run") == ["a"]
    assert Api.asked == ["/api/v2/dags/dag/clearTaskInstances"] * 3


def test_a_change_with_an_unknown_outcome_is_not_asked_for_again(client: AirflowClient) -> None:
    Api.answers += [(500, {"detail": "Internal Server Error"})]
    with pytest.raises(AirflowApiError, match="HTTP 500: Internal Server Error"):
        client.clear("dag", "run")
    assert len(Api.asked) == 1


def _outcome(**values: object) -> dict[str, object]:
    told: dict[str, object] = {
        "state": "success", "outcome": "succeeded", "title": "Succeeded", "sentence": "v2 is live", "is_told": True,
        "state_now": "", "why": [], "plan": [], "to_do": [], "evidence": "/sebenza/evidence/dag/run",
    }  # fmt: skip
    return told | values


def test_the_end_of_a_run_is_its_sentence_and_the_address_of_its_evidence(client: AirflowClient) -> None:
    Api.answers += [(200, _outcome())]
    assert conclusion(client, "dag", "run") == [
        "",
        "Succeeded: v2 is live",
        f"Evidence: {client.url}/sebenza/evidence/dag/run",
    ]
    assert Api.asked == ["/sebenza/outcome/dag/run"]


def test_the_end_of_a_run_has_everything_that_it_says(client: AirflowClient) -> None:
    Api.answers += [
        (200, _outcome(state_now="blue is live", plan=["Plan:"], why=["bake: 8% errors\nof 5%"], to_do=["mend app1"]))
    ]
    assert conclusion(client, "dag", "run")[2:-1] == [
        "Now: blue is live",
        "Plan:",
        "  Plan:",
        "Why:",
        "  bake: 8% errors",
        "  of 5%",
        "To do:",
        "  mend app1",
    ]


def test_the_words_of_a_task_that_has_failed_a_moment_ago_are_waited_for(client: AirflowClient) -> None:
    Api.answers += [(200, _outcome(state="failed", is_told=False, sentence="nothing"))] * 2
    Api.answers += [(200, _outcome(state="failed", title="Refused", sentence="held by lerato"))]
    assert conclusion(client, "dag", "run")[1] == "Refused: held by lerato"


def test_that_an_end_can_not_be_read_is_said(client: AirflowClient) -> None:
    Api.answers += [(403, {"detail": "Forbidden"})]
    said = conclusion(client, "dag", "run")
    assert "what the run says can't be read" in said[0]
    assert client.run_url("dag", "run") in said[1]
