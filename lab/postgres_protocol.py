"""The two messages of PostgreSQL's wire protocol that the database endpoint's check sends.

https://www.postgresql.org/docs/15/protocol-message-formats.html
"""

from __future__ import annotations

import struct

_PROTOCOL_3_0 = 196608


def startup_message(user: str, database: str) -> bytes:
    """StartupMessage: protocol version, user, database. Its length counts itself."""
    body = struct.pack("!i", _PROTOCOL_3_0)
    for value in ("user", user, "database", database):
        body += value.encode() + b"\0"
    body += b"\0"
    return struct.pack("!i", len(body) + 4) + body


def query(sql: str) -> bytes:
    """A simple Query message."""
    body = sql.encode() + b"\0"
    return b"Q" + struct.pack("!i", len(body) + 4) + body
