"""Comparing what is on a host with what is in its archive."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sebenza_ops.systems.archive_manifest import Entry, Manifest, differences, in_the_way, parse_made, shown, torn
from sebenza_ops.systems.errors import NoDataError

FILE = Entry("file", "644", "root", "root", 5, "a" * 64)
DIRECTORY = Entry("directory", "755", "root", "root")


def manifest(**entries: Entry) -> Manifest:
    return Manifest({name.replace("__", "/"): entry for name, entry in entries.items()})


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (replace(FILE, sha256="b" * 64), "another content"),
        (replace(FILE, owner="sebenza"), "owner sebenza:root instead of root:root"),
        (replace(FILE, mode="600"), "mode 600 instead of 644"),
        (DIRECTORY, "directory instead of file"),
        (Entry("link", "777", "root", "root", target="x"), "link instead of file"),
    ],
)
def test_every_difference_is_named(other: Entry, said: str) -> None:
    assert differences(manifest(etc=FILE), manifest(etc=other)) == {"etc": said}


def test_missing_and_new_names_are_differences() -> None:
    found = differences(manifest(a=FILE, b=FILE), manifest(b=FILE, c=FILE))
    assert found == {"a": "missing", "c": "not in the manifest"}


def test_a_file_that_was_read_whole_before_or_after_its_change_is_not_torn() -> None:
    before, after = manifest(a=FILE), manifest(a=replace(FILE, sha256="b" * 64))
    assert torn(before, before, after) == {}
    assert torn(after, before, after) == {}
    half = manifest(a=replace(FILE, sha256="c" * 64))
    assert torn(half, before, after) == {"a": "another content"}


def test_only_what_the_archive_would_not_put_there_is_in_the_way() -> None:
    archive = manifest(etc=DIRECTORY, etc__a=FILE, etc__b=FILE)
    host = manifest(
        etc=replace(DIRECTORY, mode="700"),
        etc__a=FILE,
        etc__b=replace(FILE, sha256="b" * 64),
        etc__site=FILE,
        var__lib__sebenza__fence=FILE,
    )
    found = in_the_way(archive, host, ["/var/lib/sebenza"])
    assert found == {"etc/b": "another content", "etc/site": "not in the archive"}


def test_a_manifest_comes_back_from_its_stored_form() -> None:
    odd = "caf\udce9\n"
    kept = Manifest({odd: FILE}, ("/etc/x",), {"v1": "1" * 64})
    assert Manifest.from_json(kept.to_json()) == kept
    with pytest.raises(NoDataError):
        Manifest.from_json(b"{}")


@pytest.mark.parametrize(
    "text", ["", "== attributes\nZg==\n== hashes\n\n== missing\n== stamps\n", "== attributes\n!!!"]
)
def test_half_an_answer_is_no_data(text: str) -> None:
    with pytest.raises(NoDataError):
        parse_made("app1", text)


def test_a_name_can_not_speak_to_the_terminal() -> None:
    assert "\x1b" not in shown({"\x1b[2J": "missing"})
    assert shown({str(number): "missing" for number in range(9)}).endswith("and 4 more")
