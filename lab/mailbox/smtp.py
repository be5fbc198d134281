"""The mailbox's SMTP side."""

from __future__ import annotations

import asyncio
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session

from lab.mailbox.store import Store


class MailHandler:
    """Keeps every mail; refuses on purpose when a fault of the channel "email" waits."""

    def __init__(self, store: Store) -> None:
        """Keep mails in `store`."""
        self._store = store

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Accept one mail, or answer with a fault's SMTP code."""
        record = _record(envelope)
        fault = self._store.take_fault("email")
        if fault is not None:
            await asyncio.sleep(fault.delay_seconds)  # the fault is the delay
            if fault.status != 250:
                self._store.refuse("email", fault.status, "fault on purpose", record)
                return f"{fault.status} fault on purpose"
        await self._store.accept("email", record)
        return "250 OK"


def _record(envelope: Envelope) -> dict[str, Any]:
    content = envelope.content or b""
    mail = message_from_bytes(content if isinstance(content, bytes) else content.encode(), policy=policy.default)
    text, html = _body(mail, "plain"), _body(mail, "html")
    return {
        "from": envelope.mail_from,
        "to": envelope.rcpt_tos,
        "subject": str(mail.get("Subject", "")),
        "text": f"{mail.get('Subject', '')}\n{text or html}",
        "payload": {
            "headers": {name: str(value) for name, value in mail.items()},
            "plain": text,
            "html": html,
            "attachments": [part.get_filename() for part in mail.iter_attachments()],
        },
    }


def _body(mail: EmailMessage, kind: str) -> str:
    part = mail.get_body(preferencelist=(kind,))
    return part.get_content() if part is not None else ""


def _any_login(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
    return AuthResult(success=True)


async def serve(store: Store, address: str, port: int) -> asyncio.Server:
    """Listen for mail on `address`:`port`. Any login is taken: credentials are not what the mailbox checks."""
    loop = asyncio.get_running_loop()
    handler = MailHandler(store)
    return await loop.create_server(
        lambda: SMTP(handler, hostname="mailbox", authenticator=_any_login, auth_require_tls=False, loop=loop),
        host=address,
        port=port,
    )
