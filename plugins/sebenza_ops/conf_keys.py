"""Which keys of a run's conf a procedure knows. Pure, so that the command line can ask before it starts a run."""

from __future__ import annotations

import difflib
from collections.abc import Collection


def unknown_conf_message(keys: Collection[str], known: Collection[str]) -> str | None:
    """What is wrong with the keys of a conf: each unknown one, the nearest known one, and all known ones.

    Returns None when every key is known.
    """
    unknown = sorted(set(keys) - set(known))
    if not unknown:
        return None
    named = ", ".join(_with_suggestion(key, known) for key in unknown)
    listed = ", ".join(sorted(known)) or "none"
    noun = "unknown key" if len(unknown) == 1 else "unknown keys"
    return f"{noun} in the run's conf: {named}; known keys: {listed}"


def _with_suggestion(key: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"{key!r} (did you mean {near[0]!r}?)" if near else repr(key)
