"""Loads the inventory: every file on its own, so that one bad file never hides the others.

DAG files call this while they are parsed, so files are read again only when they changed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from pydantic import ValidationError

from sebenza_ops.environments.errors import InventoryError, Problem
from sebenza_ops.environments.models import Build, Environment, Policies
from sebenza_ops.environments.positions import Document, read_document
from sebenza_ops.environments.problems import secret_problems, shown, validation_problems, yaml_problems

DIRECTORY_VARIABLE = "SEBENZA_ENVIRONMENTS"
_MODELS: Mapping[str, type[Environment] | type[Build]] = {"environment": Environment, "build": Build}

# The repository's root: include/ lies beside plugins/, in a checkout and in the image.
_ROOT = Path(__file__).resolve().parents[3]

_cache: dict[Path, tuple[tuple[int, int], Environment | Build | InventoryError]] = {}


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a directory describes.

    `environments` has the valid environments by name, `errors` the files that can't be used by their
    path. `build` is absent when no valid file describes a build host.
    """

    directory: Path
    environments: Mapping[str, Environment]
    build: Build | None
    errors: Mapping[str, InventoryError]

    def environment(self, name: str) -> Environment:
        """Return the environment called `name`; its `InventoryError` when its file is bad, else `KeyError`."""
        if name in self.environments:
            return self.environments[name]
        for error in self.errors.values():
            if error.environment == name:
                raise error
        known = ", ".join(self.environments) or "none"
        raise KeyError(f"no environment {name!r} in {self.directory}; known: {known}")


def inventory_directory() -> Path:
    """Return the directory of the inventory: `SEBENZA_ENVIRONMENTS`, else include/environments."""
    configured = os.environ.get(DIRECTORY_VARIABLE)
    return Path(configured) if configured else _ROOT / "include" / "environments"


def load_inventory(directory: Path | None = None) -> Inventory:
    """Read every *.yaml file of `directory`. Never raises for a bad file: see `Inventory.errors`."""
    place = directory if directory is not None else inventory_directory()
    environments: dict[str, Environment] = {}
    build: Build | None = None
    errors: dict[str, InventoryError] = {}
    try:
        files = sorted(entry for entry in place.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        expected = f"expected a readable directory of environment files (set {DIRECTORY_VARIABLE}): {error.strerror}"
        return Inventory(
            place,
            MappingProxyType({}),
            None,
            MappingProxyType({str(place): InventoryError(place, [Problem(place, 0, 0, "", "", expected)])}),
        )
    for file in files:
        if file.suffix not in (".yaml", ".yml"):
            continue
        loaded = _load_cached(file)
        if isinstance(loaded, Build) and build is not None:
            expected = f"expected one file of kind build; {build.name}.yaml is one already"
            loaded = InventoryError(file, [Problem(file, 1, 1, "kind", "build", expected)])
        if isinstance(loaded, InventoryError):
            errors[str(file)] = loaded
        elif isinstance(loaded, Build):
            build = loaded
        else:
            environments[loaded.name] = loaded
    return Inventory(place, MappingProxyType(environments), build, MappingProxyType(errors))


def environments_with(policy: str, inventory: Inventory | None = None) -> list[Environment]:
    """Return the valid environments that have `policy`, for example "blue_green", sorted by name.

    Raises `ValueError` when no such policy exists, so that a typing mistake is no empty list.
    """
    if policy not in Policies.model_fields:
        raise ValueError(f"no policy {policy!r}; known: {', '.join(Policies.model_fields)}")
    known = inventory if inventory is not None else load_inventory()
    return [
        environment for environment in known.environments.values() if getattr(environment.policies, policy) is not None
    ]


def inventory_errors(inventory: Inventory | None = None) -> InventoryErrors | None:
    """Return one exception that names every bad inventory file, or None when all are good."""
    known = inventory if inventory is not None else load_inventory()
    return InventoryErrors(tuple(known.errors.values())) if known.errors else None


class InventoryErrors(Exception):
    """Raised by the DAG file that reports bad inventory files; names each of them."""

    def __init__(self, errors: tuple[InventoryError, ...]) -> None:
        self.errors = errors
        names = ", ".join(error.file.name for error in errors)
        details = "\n".join(str(error) for error in errors)
        super().__init__(f"environments without DAGs until their files are corrected: {names}\n{details}")


def _load_cached(file: Path) -> Environment | Build | InventoryError:
    try:
        status = file.stat()
    except OSError as error:
        return _file_error(file, f"expected a readable file: {error.strerror}")
    stamp = (status.st_mtime_ns, status.st_size)
    known = _cache.get(file)
    if known is not None and known[0] == stamp:
        return known[1]
    loaded = load_file(file)
    _cache[file] = (stamp, loaded)
    return loaded


def load_file(file: Path) -> Environment | Build | InventoryError:
    """Read and validate one file, without the cache. A bad file is returned as its error, not raised."""
    if file.suffix != ".yaml":
        return _file_error(file, "expected a file name that ends in .yaml; rename it")
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        return _file_error(file, f"expected a readable file: {error.strerror}")
    except UnicodeDecodeError as error:
        return _file_error(file, f"expected UTF-8 text; byte {error.start} is not")
    document = read_document(text)
    problems = yaml_problems(file, document)
    if problems and document.data is None:
        return InventoryError(file, problems)
    model = _model_of(document)
    if model is None:
        return InventoryError(file, [*problems, _kind_problem(file, document)])
    loaded, found = _validate(file, document, model)
    known = {problem.path for problem in problems}
    problems += [problem for problem in found if problem.path not in known]
    if loaded is None or problems:
        return InventoryError(file, sorted(problems, key=lambda problem: (problem.line, problem.column)))
    if isinstance(loaded, Environment) and loaded.active_site != loaded.primary_site.name:
        return loaded.at_site(loaded.active_site)
    return loaded


def _validate(
    file: Path, document: Document, model: type[Environment] | type[Build]
) -> tuple[Environment | Build | None, list[Problem]]:
    problems = secret_problems(file, document)
    try:
        loaded = model.model_validate_json(json.dumps(document.data), strict=True)
    except ValidationError as error:
        known = {problem.path for problem in problems}
        found = validation_problems(file, document, model, error)
        return None, problems + [problem for problem in found if problem.path not in known]
    if loaded.name != file.stem:
        mark = document.mark(("name",))
        expected = f"expected the name of the file, {file.stem}"
        problems.append(Problem(file, mark.line, mark.column, "name", shown(("name",), loaded.name), expected))
    return loaded, problems


def _model_of(document: Document) -> type[Environment] | type[Build] | None:
    kind = document.data.get("kind") if isinstance(document.data, dict) else None
    return _MODELS.get(kind) if isinstance(kind, str) else None


def _kind_problem(file: Path, document: Document) -> Problem:
    if not isinstance(document.data, dict):
        found = "an empty file" if document.data is None else type(document.data).__name__
        return Problem(file, 1, 1, "", found, "expected a mapping that begins with `kind: environment`")
    mark = document.mark(("kind",))
    value = shown(("kind",), document.data["kind"]) if "kind" in document.data else "nothing"
    return Problem(file, mark.line, mark.column, "kind", value, f"expected one of {', '.join(_MODELS)}")


def _file_error(file: Path, expected: str) -> InventoryError:
    return InventoryError(file, [Problem(file, 0, 0, "", "", expected)])
