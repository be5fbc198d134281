"""Hostile confs: what somebody who means harm, or a broken client, would send to a procedure."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

#: In every hostile text: where it turns up, a value has turned up.
NONCE: Final = f"hx{secrets.token_hex(8)}"
#: Whatever runs as a command makes a file here.
CANARIES: Final = Path("/tmp") / f"sebenza-canaries-{NONCE}"

_GOOD_REASON: Final = "orders are lost since noon"
# Whether a text may be a release at all is looked up by the procedures; only what can't be one is hostile.
_PLAIN: Final = re.compile(r"(?!.*\.\.)(?!.*//)[A-Za-z0-9][A-Za-z0-9._/-]{0,199}(?<![./])", re.ASCII)

_SHELL: Final = (
    "$(touch {c}/a)",
    "`touch {c}/b`",
    "v1.1.0; touch {c}/c #",
    "v1.1.0 | tee {c}/d",
    "v1.1.0 && touch {c}/e",
    "v1.1.0\ntouch {c}/f\n",
    "' ; touch {c}/g ; '",
    '"; touch {c}/h; "',
    "$IFS$(touch$IFS{c}/i)",
    "> {c}/j",
    "{{touch,{c}/k}}",
    "() {{ :; }}; touch {c}/l",
)
_OPTIONS: Final = (
    "--upload-pack=touch {c}/m",
    "--exec=touch {c}/n",
    "--output={c}/o",
    "-o{c}/p",
    "-c core.pager=touch {c}/q",
    "ext::sh -c touch% {c}/r",
    "-oProxyCommand=touch {c}/s",
)
_PATHS: Final = (
    "../../../../../{c}",
    "a/../../..{c}",
    "{c}/../../etc/passwd",
    "file://{c}",
    "v1.1.0/..",
    "refs//heads/{n}",
    "..\\..\\{n}",
    "v1.1.0^{{tree}}",
    "v1.1.0:src/{n}",
    "HEAD@{{1}}{n}",
    ":/{n}",
    "{n}/",
    "{n}.",
)
_TEMPLATES: Final = (
    "{{{{ 7 * 191 }}}}{n}",
    "{{% for i in range(9**9) %}}{n}{{% endfor %}}",
    "{{{{ conn.sebenza_production_ssh.extra }}}}{n}",
    "{{{{ var.value.get('{n}') }}}}",
    "{{{{ cycler.__init__.__globals__.os.popen('touch {c}/t').read() }}}}",
    "{{{{ ti.xcom_pull('plan_rollback') }}}}{n}",
    "{{{{ ''.__class__.__mro__[1].__subclasses__() }}}}{n}",
    "{{{{ {n} }}}}",
    "{{{{ {n}",
    "${{jndi:ldap://127.0.0.1/{n}}}",
)
_SQL: Final = (
    "'; DROP TABLE leases; --{n}",
    '" UNION SELECT * FROM connection --{n}',
    "1 OR 1=1 --{n}",
    "'; COPY leases TO PROGRAM 'touch {c}/u'; --",
)
_CONTROL: Final = (
    "v1.1.0\n",
    "v1.1.0\x00{n}",
    "{n}\r\nSet-Cookie: a=b",
    "\x1b]0;{n}\x07\x1b[2J",
    "\u202e{n}",
    "\ud800{n}",
    "\ufeffv1.1.0",
    "ｖ1.1.0",
    "v1.1.0\u2028{n}",
)
PAYLOADS: Final = tuple(
    text.format(c=CANARIES, n=NONCE) for text in (*_SHELL, *_OPTIONS, *_PATHS, *_TEMPLATES, *_SQL, *_CONTROL)
)

_TEXT: Final = (
    st.sampled_from(PAYLOADS)
    | st.sampled_from(PAYLOADS).map(lambda text: f"v1.1.0{text}")
    | st.sampled_from(PAYLOADS).map(lambda text: text * 400)
    | st.text(min_size=1, max_size=40).map(lambda text: f"{text}\u00a0{NONCE}")
).filter(lambda text: _PLAIN.fullmatch(text) is None)
_NUMBERS: Final = st.sampled_from([-1, 10**400, -(2**63), 1e308, 0.5, float("nan"), float("inf"), 2**53 + 1])


def _deep(levels: int) -> Any:
    value: Any = NONCE
    for _ in range(levels):
        value = [value]
    return value


# What Airflow's own serialization gives a meaning to must stay data.
_TAGGED: Final = (
    {"__type": "dict", "__var": {"a": NONCE}},
    {"__classname__": "airflow.sdk.definitions.connection.Connection", "__version__": 1, "__data__": {"x": NONCE}},
    {"$ref": f"file://{CANARIES}"},
    {"__proto__": {"polluted": NONCE}},
    {"__class": "airflow.sdk.definitions.param.Param", "default": NONCE},
)
_NESTED: Final = st.recursive(
    _TEXT | _NUMBERS | st.none() | st.booleans(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(_TEXT, children, max_size=3),
    max_leaves=8,
).filter(lambda value: isinstance(value, list | dict))
_VALUES: Final = _TEXT | _NUMBERS | _NESTED | st.sampled_from([*_TAGGED, _deep(200)])


def _release_conf(key: str, value: Any) -> dict[str, Any]:
    return {"version": "v1.1.0", key: value}


def _rollback_conf(key: str, value: Any) -> dict[str, Any]:
    return {"reason": _GOOD_REASON, "to": f"{NONCE}/../v1.0.0", key: value}


def _freeze_conf(key: str, value: Any) -> dict[str, Any]:
    # Over, so that a reason that is text for people, whatever it says, does not freeze the lab.
    over = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    return {"reason": _GOOD_REASON, "until": over, key: value}


def _reason_conf(key: str, value: Any) -> dict[str, Any]:
    if key == "reason" and isinstance(value, str):
        # Text for people may say anything, and the procedure would go on with it; not so long.
        value = value * (1 + 500 // len(value))
    return {"reason": _GOOD_REASON, key: value}


#: Procedure → its parameters that take hostile values, and what makes a conf of one.
_PROCEDURES: Final[dict[str, tuple[tuple[str, ...], Callable[[str, Any], dict[str, Any]]]]] = {
    "deploy_blue_green.production": (
        ("version", "version", "bake_seconds", "keep_warm_seconds", "plan_only", "converge_to"),
        _release_conf,
    ),
    "build_release": (("version",), _release_conf),
    "rollback.production": (("to", "to", "to", "mark_bad", "plan_only", "reason"), _rollback_conf),
    "freeze.production": (("until", "until", "until", "until", "reason"), _freeze_conf),
    "release_lease.production": (("reason",), _reason_conf),
    "migrate_contract.production": (("reason", "plan_only"), _reason_conf),
}
PROCEDURES: Final = tuple(_PROCEDURES)


@st.composite
def hostile_conf(draw: st.DrawFn) -> tuple[str, Any]:
    """A procedure, and a conf for it that it must refuse."""
    procedure = draw(st.sampled_from(PROCEDURES))
    keys, make = _PROCEDURES[procedure]
    kind = draw(st.sampled_from(["value"] * 36 + ["key"] * 2 + ["whole"] * 2))
    if kind == "whole":
        return procedure, draw(st.lists(_VALUES, max_size=2) | _TEXT | _NUMBERS)
    if kind == "key":
        return procedure, make(draw(_TEXT), draw(_VALUES))
    return procedure, make(draw(st.sampled_from(keys)), draw(_VALUES))


def hostile_confs(count: int) -> list[tuple[str, Any]]:
    """So many different ones, the same in every session but for the nonce."""
    found: dict[str, tuple[str, Any]] = {}

    @settings(
        max_examples=4 * count,
        phases=[Phase.generate],
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(hostile_conf())
    def collect(drawn: tuple[str, Any]) -> None:
        if len(found) < count:
            found[json.dumps(drawn, sort_keys=True)] = drawn

    collect()
    return list(found.values())


def texts(value: Any) -> list[str]:
    """All texts in a conf, keys included."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for key, item in value.items() for text in (key, *texts(item))]
    if isinstance(value, list):
        return [text for item in value for text in texts(item)]
    return []
