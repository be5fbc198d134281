"""Why a procedure is not run."""

from __future__ import annotations


class RefusedError(Exception):
    """The procedure was not started; nothing was touched. The message says why, in a line, and what to do."""
