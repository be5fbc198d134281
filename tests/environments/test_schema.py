"""The JSON Schema for editors, and the command that checks files."""

from __future__ import annotations

import json

import jsonschema  # type: ignore[import-untyped]
import pytest

from sebenza_ops.environments.__main__ import main
from sebenza_ops.environments.positions import read_document
from sebenza_ops.environments.reference import MARKER, inventory_reference
from sebenza_ops.environments.schema import inventory_schema
from tests.environments.inventory_files import SHIPPED

NAMES = ["production", "staging", "development", "build"]


def test_the_committed_schema_is_the_generated_one():
    committed = (SHIPPED / "schema.json").read_text(encoding="utf-8")
    assert committed == inventory_schema(), (
        "include/environments/schema.json is stale: "
        "python -m sebenza_ops.environments schema > include/environments/schema.json"
    )


def test_the_users_guide_has_the_generated_reference():
    guide = (SHIPPED.parents[1] / "docs" / "environments.md").read_text(encoding="utf-8")
    assert guide.partition(MARKER)[2].strip() == inventory_reference().strip(), (
        "docs/environments.md is stale: replace what follows the marker by the output of "
        "python -m sebenza_ops.environments reference"
    )


def test_the_command_prints_the_reference(capsys):
    assert main(["reference"]) == 0
    assert capsys.readouterr().out == inventory_reference()


def test_the_command_prints_the_schema(capsys):
    assert main(["schema"]) == 0
    assert capsys.readouterr().out == inventory_schema()


@pytest.mark.parametrize("name", NAMES)
def test_the_shipped_files_follow_the_schema_and_name_it(name):
    text = (SHIPPED / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# yaml-language-server: $schema=schema.json\n")
    schema = json.loads(inventory_schema())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(read_document(text).data)


def test_the_schema_finds_mistakes_too():
    data = read_document((SHIPPED / "production.yaml").read_text(encoding="utf-8")).data
    data["load_balancing"]["https_port"] = 70000
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(json.loads(inventory_schema())).validate(data)


def test_every_field_is_explained():
    definitions = json.loads(inventory_schema())["$defs"]
    missing = [
        f"{model}.{name}"
        for model, definition in definitions.items()
        for name, field in definition.get("properties", {}).items()
        if "const" not in field
        and not field.get("description")
        and not definitions.get(field.get("$ref", "").rpartition("/")[2], {}).get("description")
    ]
    assert missing == []


def test_check_says_what_is_good(files, capsys):
    assert main(["check", str(files.directory)]) == 0
    assert "4 good (development, production, staging, build), 0 bad" in capsys.readouterr().out


def test_check_fails_and_says_what_is_bad(files, capsys):
    files.edit("production", "https_port: 443", "https_port: 0")
    assert main(["check", str(files.directory)]) == 1
    printed = capsys.readouterr()
    assert "3 good (development, staging, build), 1 bad" in printed.out
    assert "production.yaml: 1 problem; this file is not used until they are corrected" in printed.err
    assert "load_balancing.https_port" in printed.err


def test_check_fails_where_nothing_is(tmp_path, capsys):
    assert main(["check", str(tmp_path)]) == 1
    assert "no environment is described here" in capsys.readouterr().err
    assert main(["check", str(tmp_path / "nowhere")]) == 1
