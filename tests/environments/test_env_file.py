"""The application's env file: what is written is what is read, and drift never shows a secret."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from sebenza_ops.environments.env_file import (
    PUBLIC_VARIABLES,
    ApplicationSecrets,
    DriftKind,
    EnvFileError,
    application_variables,
    compare_settings,
    format_variable,
    parse_env_file,
    render_env_file,
    settings_fingerprint,
)
from sebenza_ops.environments.inventory import load_inventory
from sebenza_ops.environments.models import Color, Environment
from tests.environments.inventory_files import SHIPPED

SECRETS = ApplicationSecrets(
    database_url=SecretStr("postgresql://sebenza:s3cr3t#1 x@db:5432/sebenza_logistics"),
    cache_url=SecretStr("redis://:t0ps3cr3t@cache:6379"),
    alerts_webhook=SecretStr("https://alerts.example.com/hook/abc"),
)
RELEASE = "v1.0.0-0a1b2c3d4e5f"


@pytest.fixture(scope="module")
def production() -> Environment:
    return load_inventory(SHIPPED).environments["production"]


@pytest.fixture
def rendered(production: Environment) -> str:
    return render_env_file(production, Color.GREEN, production.host("app1"), RELEASE, SECRETS)


def test_the_file_has_what_the_application_reads(rendered):
    assert parse_env_file(rendered) == {
        "NODE_ENV": "production",
        "APP_HOST": "192.0.2.21",
        "APP_PORT": "3002",
        "DATABASE_URL": "postgresql://sebenza:s3cr3t#1 x@db:5432/sebenza_logistics",
        "REDIS_URL": "redis://:t0ps3cr3t@cache:6379",
        "LOG_LEVEL": "info",
        "SESSION_TIMEOUT": "3600",
        "DB_POOL_SIZE": "20",
        "DB_QUERY_TIMEOUT": "30000",
        "CACHE_TTL": "3600",
        "METRICS_ENABLED": "true",
        "METRICS_ENDPOINT": "/metrics",
        "ALERTS_WEBHOOK": "https://alerts.example.com/hook/abc",
        "SEBENZA_COLOR": "green",
        "SEBENZA_LOG_DIR": "/var/log/sebenza",
    }


def test_the_same_input_gives_the_same_text(production, rendered):
    again = render_env_file(production, Color.GREEN, production.host("app1"), RELEASE, SECRETS)
    assert again == rendered
    assert "green on app1, release v1.0.0-0a1b2c3d4e5f" in rendered.splitlines()[0]


def test_paths_are_below_the_root_of_the_host(production):
    host = production.host("app1").model_copy(update={"root_dir": "/run/lab/app1"})
    assert application_variables(production, Color.BLUE, host, SECRETS)["SEBENZA_LOG_DIR"] == (
        "/run/lab/app1/var/log/sebenza"
    )


def test_a_release_id_can_not_add_lines(production):
    with pytest.raises(EnvFileError, match="release id"):
        render_env_file(production, Color.BLUE, production.host("app1"), "v1\nNODE_ENV=x", SECRETS)


def test_secrets_are_hidden():
    assert "s3cr3t" not in repr(SECRETS) + str(SECRETS) + SECRETS.model_dump_json()


def test_a_bad_secret_is_refused_without_showing_it():
    with pytest.raises(ValidationError) as refused:
        ApplicationSecrets(database_url=SecretStr("mysql://u:s3cr3t@x"), cache_url=SecretStr("redis://x"))
    assert "expected a URL that begins with postgresql://" in str(refused.value)
    assert "s3cr3t" not in str(refused.value)


NASTY = [
    "",
    " ",
    " leading and trailing ",
    "a#b",
    "a # b",
    "#",
    "it's",
    'say "hi"',
    "$HOME ${HOME} $(id) `id`",
    "back\\slash\\n",
    "a=b=c",
    "postgresql://u:p%27q@h:5432/d?sslmode=require&x=y",
    "ünï→cödé",
    "!history ; rm -rf / | & < > * ? [ ] { } ~",
]


def writable(value: str) -> bool:
    try:
        format_variable("VALUE", value)
    except EnvFileError:
        return False
    return True


@given(st.text())
def test_what_is_written_is_what_is_read(value):
    """Or it is refused: exactly for control characters and for what no quoting keeps everywhere."""
    refused = not value.isprintable() or ("'" in value and any(c in value for c in '"$\\`'))
    assert writable(value) is not refused
    if not refused:
        line = format_variable("VALUE", value)
        assert "\n" not in line
        assert parse_env_file(line) == {"VALUE": value}


@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9_]{0,10}", fullmatch=True), st.text().filter(writable)))
def test_files_round_trip(variables):
    text = "".join(f"{format_variable(name, value)}\n" for name, value in variables.items())
    assert parse_env_file(text) == variables


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\0b", "a\u2028b", "a'\"b", "a'$b", "a'\\b", "a'`b"])
def test_what_no_reader_agrees_on_is_refused_without_showing_it(value):
    with pytest.raises(EnvFileError, match=r"^SECRET: ") as refused:
        format_variable("SECRET", value)
    assert value not in str(refused.value)


def test_a_shell_reads_the_same(tmp_path):
    for value in NASTY:
        file = tmp_path / "app.env"
        file.write_text(format_variable("VALUE", value) + "\n", encoding="utf-8")
        done = subprocess.run(
            ["sh", "-c", '. "$1"; printf %s "$VALUE"', "sh", str(file)], capture_output=True, check=True
        )
        assert done.stdout.decode() == value


def test_nodejs_reads_the_same(tmp_path):
    node = shutil.which("node")
    assert node, "Node.js is missing; the project's set-up installs it"
    file = tmp_path / "app.env"
    expected = {f"V{index}": value for index, value in enumerate(NASTY)}
    file.write_text("".join(f"{format_variable(n, v)}\n" for n, v in expected.items()), encoding="utf-8")
    script = (
        "const text = require('node:fs').readFileSync(process.argv[1], 'utf8');"
        "console.log(JSON.stringify(require('node:util').parseEnv(text)))"
    )
    done = subprocess.run([node, "-e", script, str(file)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == expected


def test_the_sample_application_reads_the_same(tmp_path, rendered):
    node = shutil.which("node")
    assert node, "Node.js is missing; the project's set-up installs it"
    reader = SHIPPED.parents[1] / "lab" / "application" / "base" / "src" / "envfile.js"
    file = tmp_path / "app.env"
    text = rendered + "".join(f"{format_variable(f'V{i}', value)}\n" for i, value in enumerate(NASTY))
    file.write_text(text, encoding="utf-8")
    script = "console.log(JSON.stringify(require(process.argv[1]).readEnvFile(process.argv[2])))"
    done = subprocess.run([node, "-e", script, str(reader), str(file)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == parse_env_file(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A=1\nnonsense s3cr3t\n", "line 2: expected NAME=value"),
        ("A=1\nA=s3cr3t\n", "line 2: A is set a second time"),
        ("A='s3cr3t\n", "line 1: A has no closing quote"),
        ("A='x' s3cr3t\n", "line 1: A has text after its closing quote"),
    ],
)
def test_a_broken_file_is_explained_without_showing_it(text, message):
    with pytest.raises(EnvFileError) as broken:
        parse_env_file(text)
    assert str(broken.value) == message


def test_a_file_edited_by_hand_is_read_as_the_application_reads_it():
    text = '# comment\n\nexport A = 1 # one\nB="a\\"b\\n"  # two\nC=\'x\'\n'
    assert parse_env_file(text) == {"A": "1", "B": 'a"b\n', "C": "x"}


def test_no_drift(rendered):
    reordered = "\n".join(reversed(rendered.splitlines())) + "\n# another comment\n"
    assert compare_settings(rendered, rendered) == []
    assert compare_settings(rendered, reordered) == []


def test_drift_of_public_settings_shows_values(rendered):
    actual = rendered.replace("DB_POOL_SIZE=20", "DB_POOL_SIZE=10").replace("LOG_LEVEL=info\n", "")
    drifts = compare_settings(rendered, actual)
    assert [str(drift) for drift in drifts] == [
        "LOG_LEVEL: is missing, expected 'info'",
        "DB_POOL_SIZE: is '10', expected '20'",
    ]


def test_drift_of_secrets_never_shows_them(rendered):
    actual = rendered.replace("s3cr3t#1 x", "leaked").replace("t0ps3cr3t", "leaked") + "EXTRA=leaked\n"
    drifts = compare_settings(rendered, actual)
    assert [(drift.name, drift.kind) for drift in drifts] == [
        ("DATABASE_URL", DriftKind.DIFFERS),
        ("REDIS_URL", DriftKind.DIFFERS),
        ("EXTRA", DriftKind.UNEXPECTED),
    ]
    assert all(drift.secret for drift in drifts)
    text = " ".join(f"{drift} {drift!r}" for drift in drifts)
    assert "s3cr3t" not in text
    assert "leaked" not in text


def test_hosts_that_differ_in_the_same_way_can_be_recognised(rendered):
    actual = rendered.replace("t0ps3cr3t", "old")
    one, two = (compare_settings(rendered, actual, salt=b"one check")[0] for _ in range(2))
    other = compare_settings(rendered, actual)[0]
    assert one == two
    assert one.actual != one.expected
    assert other.actual != one.actual


def test_an_unreadable_file_is_drift(rendered):
    (drift,) = compare_settings(rendered, "garbage s3cr3t")
    assert drift.kind is DriftKind.UNREADABLE
    assert str(drift) == "env file can't be read: line 1: expected NAME=value"


@given(
    st.dictionaries(st.sampled_from(sorted(PUBLIC_VARIABLES)), st.text(max_size=3).filter(writable)),
    st.dictionaries(st.sampled_from(sorted(PUBLIC_VARIABLES)), st.text(max_size=3).filter(writable)),
)
def test_fingerprints_are_equal_exactly_when_there_is_no_drift(left, right):
    texts = ["".join(f"{format_variable(n, v)}\n" for n, v in side.items()) for side in (left, right)]
    same = settings_fingerprint(texts[0], b"salt") == settings_fingerprint(texts[1], b"salt")
    assert same is (not compare_settings(texts[0], texts[1]))
    assert settings_fingerprint(texts[0], b"salt") != settings_fingerprint(texts[0], b"other")
