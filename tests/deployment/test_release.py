"""What may be a git ref, and what a release is called."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sebenza_ops.deployment.params import VERSION_PATTERN, check_deployment_params
from sebenza_ops.deployment.release import is_valid_ref, release_id

HOSTILE = [
    "",
    "-v1",
    "--upload-pack=touch /tmp/x",
    "v1; reboot",
    "$(reboot)",
    "`reboot`",
    "v1 v2",
    "v1\nv2",
    "../../etc/passwd",
    "a..b",
    "a//b",
    "v1.",
    "v1/",
    "v1\\",
    "v1'",
    'v1"',
    "v1&",
    "v1|x",
    "v1>x",
    "v1*",
    "v1?",
    "v1~1",
    "v1^{commit}",
    "v1:file",
    "@{u}",
    "a" * 200,
    "é",
    "\x00",
]


@pytest.mark.parametrize("ref", HOSTILE)
def test_what_git_or_a_shell_could_read_otherwise_is_refused(ref):
    assert not is_valid_ref(ref)
    with pytest.raises(ValueError, match=r"^version: "):
        check_deployment_params({"version": ref})


@pytest.mark.parametrize("ref", ["v1.1.0", "main", "feature/new-form", "8e3c147249f0", "v1.3.2-late-5xx", "release_1"])
def test_usual_refs_pass(ref):
    check_deployment_params({"version": ref})


@given(st.text(min_size=1, max_size=40))
def test_what_passes_needs_no_quoting_and_passes_the_form(ref):
    if is_valid_ref(ref):
        assert re.fullmatch(r"[A-Za-z0-9._/-]+", ref)
        assert re.match(VERSION_PATTERN, ref)


def test_a_release_is_one_directory():
    assert release_id("feature/x", "0" * 40) == "feature_x-000000000000"
