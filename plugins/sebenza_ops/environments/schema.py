"""JSON Schema of the inventory files, generated from the models, for editors."""

from __future__ import annotations

import json
from typing import Annotated

from pydantic import Field, TypeAdapter

from sebenza_ops.environments.models import Build, Environment


def inventory_schema() -> str:
    """Return the schema as text, as it is committed in include/environments/schema.json."""
    adapter: TypeAdapter[Environment | Build] = TypeAdapter(
        Annotated[Environment | Build, Field(discriminator="kind")],
    )
    schema = adapter.json_schema()
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Sebenza Ops inventory file",
        **schema,
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
