"""The mailbox is as strict as the services it stands for, and the real clients can talk to it."""

from __future__ import annotations

import json
import signal
import smtplib
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import httpx2
import pagerduty
import pytest
from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError
from slack_sdk.webhook import WebhookClient

from lab import waiting
from lab.mailbox.client import Mailbox, MailboxError
from lab.waiting import scaled

ROUTING_KEY = "0123456789abcdef0123456789abcdef"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class RunningMailbox(Mailbox):
    """A mailbox process of this test."""

    def __init__(self, state: Path) -> None:
        self.http_port, self.smtp_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.http_port}"
        super().__init__(self.url)
        self.command = [sys.executable, "-m", "lab.mailbox", "--listen", "127.0.0.1", "--state", str(state)]
        self.command += ["--http-port", str(self.http_port), "--smtp-port", str(self.smtp_port)]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self.command)
        waiting.until(self.healthy, "the mailbox answers")

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(scaled(10))

    def post(self, path: str, body: Any, **headers: str) -> tuple[int, str]:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=raw, method="POST")
        for name, value in ({"Content-Type": "application/json"} | headers).items():
            request.add_header(name, value)
        try:
            with urllib.request.urlopen(request, timeout=5) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMailbox]:
    running = RunningMailbox(tmp_path_factory.mktemp("mailbox"))
    yield running
    assert running.end() in (0, -signal.SIGTERM)


@pytest.fixture
def mailbox(process: RunningMailbox) -> RunningMailbox:
    process.clear()
    return process


def section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text}}


def test_a_slack_webhook_message_is_kept(mailbox: RunningMailbox):
    before = datetime.now(UTC)
    answer = WebhookClient(f"{mailbox.url}/services/T0/B0/secret").send(text="deployed", blocks=[section("*v1.1.0*")])
    assert (answer.status_code, answer.body) == (200, "ok")
    (message,) = mailbox.messages("slack")
    assert message["text"] == "deployed\n*v1.1.0*"
    assert message["path"] == "/services/T0/B0/secret"
    assert before - timedelta(milliseconds=1) <= datetime.fromisoformat(message["received_at"]) <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"not json", "invalid_payload"),
        (["a list"], "invalid_payload"),
        ({}, "no_text"),
        ({"text": ""}, "no_text"),
        ({"text": 5}, "invalid_payload"),
        ({"text": "x" * 40_001}, "msg_too_long"),
        ({"blocks": {"type": "section"}}, "invalid_blocks_format"),
        ({"blocks": [section("x")] * 51}, "invalid_blocks"),
        ({"blocks": [section("x" * 3_001)]}, "invalid_blocks"),
        ({"blocks": [section("")]}, "invalid_blocks"),
        ({"blocks": [{"type": "section"}]}, "invalid_blocks"),
        ({"blocks": [{"type": "sektion"}]}, "invalid_blocks"),
        ({"blocks": [{"type": "header", "text": {"type": "mrkdwn", "text": "x"}}]}, "invalid_blocks"),
        ({"blocks": [{"type": "header", "text": {"type": "plain_text", "text": "x" * 151}}]}, "invalid_blocks"),
        ({"blocks": [{"type": "context", "elements": []}]}, "invalid_blocks"),
        ({"blocks": [{"type": "section", "fields": [{"type": "mrkdwn", "text": "x"}] * 11}]}, "invalid_blocks"),
        ({"attachments": [{"text": "x"}] * 101}, "too_many_attachments"),
    ],
)
def test_what_slack_would_refuse_is_refused(mailbox: RunningMailbox, body: Any, error: str):
    assert mailbox.post("/services/T0/B0/secret", body) == (400, error)
    assert mailbox.messages() == []
    (refusal,) = mailbox.refusals("slack")
    assert refusal["reason"].startswith(error)


@pytest.mark.parametrize(
    "body",
    [
        {"text": "x" * 40_000},
        {"blocks": [section("x" * 3_000)] * 50},
        {"attachments": [{"text": "as Alertmanager sends"}], "channel": "#alerts-critical"},
        {"blocks": [{"type": "divider"}, {"type": "context", "elements": [{"type": "mrkdwn", "text": "x"}]}]},
        {
            "blocks": [
                {
                    "type": "actions",
                    "elements": [{"type": "button", "text": {"type": "plain_text", "text": "Run"}, "url": "https://a"}],
                }
            ]
        },
    ],
)
def test_what_slack_would_take_is_taken(mailbox: RunningMailbox, body: Any):
    assert mailbox.post("/services/T0/B0/secret", body) == (200, "ok")


def test_the_slack_web_api_as_its_client_uses_it(mailbox: RunningMailbox):
    client = WebClient(token="xoxb-lab", base_url=f"{mailbox.url}/api/")
    assert client.auth_test()["ok"]
    name = f"incident-{free_port()}"
    channel = client.conversations_create(name=name)["channel"]["id"]
    client.conversations_invite(channel=channel, users=["U1", "U2"])
    posted = client.chat_postMessage(channel=channel, text="opened", blocks=[section("opened")])
    client.chat_update(channel=channel, ts=str(posted["ts"]), text="closed")
    assert [message["method"] for message in mailbox.messages("slack")] == [
        "conversations.create",
        "conversations.invite",
        "chat.postMessage",
        "chat.update",
    ]
    assert {message["slack_channel"] for message in mailbox.messages("slack")} == {name}


@pytest.mark.parametrize(
    ("token", "method", "arguments", "error"),
    [
        ("", "chat.postMessage", {"channel": "#a", "text": "x"}, "not_authed"),
        ("bogus", "chat.postMessage", {"channel": "#a", "text": "x"}, "invalid_auth"),
        ("xoxb-1", "chat.postMessage", {"channel": "", "text": "x"}, "channel_not_found"),
        ("xoxb-1", "chat.postMessage", {"channel": "C0NOTHERE00", "text": "x"}, "channel_not_found"),
        ("xoxb-1", "chat.postMessage", {"channel": "#a"}, "no_text"),
        ("xoxb-1", "chat.update", {"channel": "#a", "ts": "1.0", "text": "x"}, "message_not_found"),
        ("xoxb-1", "conversations.create", {"name": "Not Valid"}, "invalid_name_specials"),
        ("xoxb-1", "conversations.create", {"name": "x" * 81}, "invalid_name_maxlength"),
        ("xoxb-1", "conversations.invite", {"channel": "#a", "users": "nobody"}, "user_not_found"),
        ("xoxb-1", "chat.sing", {}, "unknown_method"),
    ],
)
def test_what_the_slack_web_api_would_refuse(
    mailbox: RunningMailbox, token: str, method: str, arguments: dict[str, Any], error: str
):
    client = WebClient(token=token or None, base_url=f"{mailbox.url}/api/")
    with pytest.raises(SlackApiError) as refused:
        client.api_call(method, json=arguments)
    assert refused.value.response["error"] == error


class PlainHttpClient(pagerduty.EventsApiV2Client):
    """PagerDuty's client, which takes no http:// address, for a server on this machine."""

    url = ""


def test_pagerduty_as_its_client_uses_it(mailbox: RunningMailbox):
    client = PlainHttpClient(ROUTING_KEY)
    client.url = mailbox.url
    key = client.trigger("deployment failed", "production", severity="critical", custom_details={"release": "v1"})
    client.trigger("deployment failed", "production", dedup_key=key, severity="critical")
    (incident,) = mailbox.incidents(key)
    assert (incident["status"], incident["triggers"], incident["severity"]) == ("triggered", 2, "critical")
    client.acknowledge(key)
    assert mailbox.incidents(key)[0]["status"] == "acknowledged"
    client.resolve(key)
    client.resolve(key)
    (incident,) = mailbox.incidents(key)
    assert incident["status"] == "resolved"
    assert incident["triggered_at"] <= incident["acknowledged_at"] <= incident["resolved_at"]
    client.trigger("again", "production", dedup_key=key)
    assert [one["status"] for one in mailbox.incidents(key)] == ["resolved", "triggered"]


def event(**changes: Any) -> dict[str, Any]:
    payload = {"summary": "s", "source": "h", "severity": "critical"} | changes.pop("payload", {})
    return {"routing_key": ROUTING_KEY, "event_action": "trigger", "payload": payload} | changes


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"not json", "JSON object"),
        (event(routing_key="short"), "Length of 'routing_key'"),
        (event(routing_key=None), "'routing_key'"),
        (event(event_action="shout"), "'event_action'"),
        (event(payload={"summary": "x" * 1_025}), "'payload.summary'"),
        (event(payload={"summary": ""}), "'payload.summary'"),
        (event(payload={"source": None}), "'payload.source'"),
        (event(payload={"severity": "P1"}), "'payload.severity'"),
        (event(payload={"timestamp": "yesterday"}), "'payload.timestamp'"),
        (event(dedup_key="x" * 256), "'dedup_key'"),
        ({"routing_key": ROUTING_KEY, "event_action": "resolve"}, "'dedup_key'"),
        (event(links=[{"text": "no href"}]), "'links[0].href'"),
    ],
)
def test_what_pagerduty_would_refuse_is_refused(mailbox: RunningMailbox, body: Any, named: str):
    status, answer = mailbox.post("/v2/enqueue", body)
    assert (status, json.loads(answer)["status"]) == (400, "invalid event")
    assert any(named in error for error in json.loads(answer)["errors"])
    assert mailbox.incidents() == []


def test_pagerduty_takes_the_longest_summary_and_change_events(mailbox: RunningMailbox):
    status, answer = mailbox.post("/v2/enqueue", event(payload={"summary": "x" * 1_024}))
    assert (status, json.loads(answer)["status"]) == (202, "success")
    change = {"routing_key": ROUTING_KEY, "payload": {"summary": "deployed", "timestamp": "2026-01-01T00:00:00Z"}}
    assert mailbox.post("/v2/change/enqueue", change)[0] == 202
    assert len(mailbox.incidents()) == 1


def test_mail_is_kept(mailbox: RunningMailbox):
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "ops@sebenza.com", "oncall@company.com", "Deployment of v1.1.0 failed"
    mail.set_content("plain")
    mail.add_alternative("<b>html</b>", subtype="html")
    with smtplib.SMTP("127.0.0.1", mailbox.smtp_port) as smtp:
        smtp.login("ops", "any")
        smtp.send_message(mail)
    (kept,) = mailbox.messages("email")
    assert (kept["subject"], kept["to"]) == ("Deployment of v1.1.0 failed", ["oncall@company.com"])
    assert (kept["payload"]["plain"].strip(), kept["payload"]["html"].strip()) == ("plain", "<b>html</b>")


def test_other_webhooks_are_kept_as_they_come(mailbox: RunningMailbox):
    assert mailbox.post("/webhook/alerts/production", {"alerts": [1]})[0] == 200
    assert mailbox.post("/webhook", b"plain words")[0] == 200
    alerts, words = mailbox.messages("webhook")
    assert (alerts["path"], alerts["payload"]) == ("/webhook/alerts/production", {"alerts": [1]})
    assert words["payload"] == "plain words"


@pytest.mark.parametrize(
    ("channel", "path", "body"),
    [
        ("slack", "/services/T/B/x", {"text": "x"}),
        ("pagerduty", "/v2/enqueue", event()),
        ("webhook", "/webhook", {"x": 1}),
    ],
)
def test_faults_are_met_once_each_and_then_all_is_well(mailbox: RunningMailbox, channel: Any, path: str, body: Any):
    mailbox.fail_next(channel, 429)
    mailbox.fail_next(channel, 500, count=2)
    assert [mailbox.post(path, body)[0] // 100 for _ in range(4)] == [4, 5, 5, 2]
    assert [refusal["status"] for refusal in mailbox.refusals(channel)] == [429, 500, 500]
    assert len(mailbox.messages(channel)) == 1


def test_slack_says_when_to_come_back(mailbox: RunningMailbox):
    mailbox.fail_next("slack", 429)
    answer = httpx2.post(f"{mailbox.url}/services/T/B/x", json={"text": "x"})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")


def test_a_mail_fault_is_an_smtp_reply(mailbox: RunningMailbox):
    mailbox.fail_next("email", 451)
    mail = EmailMessage()
    mail["From"], mail["To"] = "a@sebenza.com", "b@sebenza.com"
    with smtplib.SMTP("127.0.0.1", mailbox.smtp_port) as smtp:
        with pytest.raises(smtplib.SMTPDataError) as refused:
            smtp.send_message(mail)
        assert refused.value.smtp_code == 451
        smtp.send_message(mail)
    assert len(mailbox.messages("email")) == 1


def test_a_message_is_awaited(mailbox: RunningMailbox):
    mailbox.post("/webhook", {"n": 1})
    sender = threading.Timer(0.3, mailbox.post, ("/webhook", {"n": 2}))
    sender.start()
    message = mailbox.await_message(lambda one: one["payload"] == {"n": 2}, timeout_seconds=10)
    assert message["channel"] == "webhook"
    sender.join()


def test_a_message_that_does_not_come_is_an_error_that_says_what_came(mailbox: RunningMailbox):
    mailbox.post("/webhook", {"n": 1})
    with pytest.raises(MailboxError, match=r"no awaited message in 0.2 s; arrived instead: webhook"):
        mailbox.await_message(lambda one: False, timeout_seconds=0.2)


def test_since_and_after_select(mailbox: RunningMailbox):
    mailbox.post("/webhook", {"n": 1})
    (first,) = mailbox.messages()
    waiting.until(lambda: datetime.now(UTC) > moment(first) + timedelta(milliseconds=1), "the clock moves on")
    mailbox.post("/webhook", {"n": 2})
    assert [one["payload"] for one in mailbox.messages(since=moment(first))] == [{"n": 2}]
    assert [one["payload"] for one in mailbox.messages(after_id=first["id"])] == [{"n": 2}]
    with pytest.raises(MailboxError, match="channel must be one of"):
        mailbox.messages(channel="fax")  # type: ignore[arg-type]


def moment(message: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(message["received_at"])


@pytest.fixture
def own_mailbox(tmp_path: Path) -> Iterator[RunningMailbox]:
    """A mailbox that the test may kill."""
    running = RunningMailbox(tmp_path / "state")
    yield running
    running.end(signal.SIGKILL)


def test_messages_survive_a_kill(own_mailbox: RunningMailbox, tmp_path: Path):
    own_mailbox.post("/webhook", {"n": 1})
    own_mailbox.end(signal.SIGKILL)
    with (tmp_path / "state" / "messages.jsonl").open("a") as file:
        file.write('{"id": 2, "cut off')
    own_mailbox.start()
    own_mailbox.post("/webhook", {"n": 2})
    assert [(one["id"], one["payload"]) for one in own_mailbox.messages()] == [(1, {"n": 1}), (2, {"n": 2})]
    own_mailbox.end()
    own_mailbox.start()
    assert [one["id"] for one in own_mailbox.messages()] == [1, 2]
    own_mailbox.clear()
    assert own_mailbox.messages() == []
