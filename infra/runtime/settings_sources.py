"""The three places settings come from, as nested mappings that know where each value was written. Pure but for reads.

A source is checked by itself, before merging, so that an error can name the place: file and table, variable, or flag.
"""

from __future__ import annotations

import difflib
import json
import tomllib
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import msgspec
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from infra.runtime.errors import ConfigError
from infra.runtime.secret import Secret

ENVIRONMENT_PREFIX = "DELTAVISOR_"
SECRET_FILE_LIMIT_BYTES = 65_536
"""A secret is a line; a larger file was meant for something else."""

Path_ = tuple[str, ...]


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """One value, the path of its field within the component's settings, and the place that gave it."""

    path: Path_
    value: Any
    place: str
    directory: Path | None = None
    """What a relative ``<field>_file`` is relative to: the directory of the settings file, else the working one."""


def read_toml(file: Path) -> dict[str, Any]:
    """The tables of a settings file. ConfigError if it is missing, unreadable or not TOML."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read the settings file ({error.strerror})", where=str(file), advice="check path and permissions"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"not valid TOML: {error}", where=str(file), advice="mend the syntax there") from error


def given_by_file(file: Path, table: str, at: Path_, content: object) -> Iterator[Given]:
    """The values of one table of a file, placed at ``at`` within the component's settings."""
    if not isinstance(content, Mapping):
        raise ConfigError(f"{table} is a value, but must be a table", where=str(file), advice=f"write [{table}]")
    for path, value in _leaves(content):
        place = f"{file} [{'.'.join((table, *path[:-1]))}] {path[-1]}"
        yield Given(path=(*at, *path), value=value, place=place, directory=file.parent)


def given_by_environment(environment: Mapping[str, str], owner: str, at: Path_) -> Iterator[Given]:
    """The values of ``DELTAVISOR_<OWNER>__FIELD`` variables, nested by ``__``, placed at ``at``."""
    prefix = f"{ENVIRONMENT_PREFIX}{owner.upper()}__"
    for name in sorted(environment):
        if name.startswith(prefix):
            path = tuple(part.lower() for part in name[len(prefix) :].split("__"))
            yield Given(path=(*at, *path), value=environment[name], place=name)


def given_by_flags(overrides: Mapping[str, Any]) -> Iterator[Given]:
    """The values of flags: nested mappings, or dotted names; a flag that is None was not given."""
    for path, value in _leaves(overrides):
        if value is not None:
            dotted = tuple(part for name in path for part in name.split("."))
            yield Given(path=dotted, value=value, place=f"flag --{'-'.join(dotted).replace('_', '-')}")


def resolve(model: type[BaseModel], given: Given) -> Given:
    """The same value ready for validation: the field is known, a secret file is read, a list in a variable is parsed.

    ConfigError if there is no such field, naming the nearest ones.
    """
    owner = model
    for depth, name in enumerate(given.path[:-1]):
        inner = _nested_model(_field(owner, name, given, depth))
        if inner is None:
            unknown = ".".join(given.path[depth + 1 :])
            raise ConfigError(f"{name!r} is a single value and has no {unknown!r}", where=given.place)
        owner = inner
    name = given.path[-1]
    secret = name.removesuffix("_file")
    if name not in owner.model_fields and secret != name and _is_secret(owner.model_fields.get(secret)):
        text = Secret(_read_secret(given))
        return msgspec.structs.replace(given, path=(*given.path[:-1], secret), value=text)
    field = _field(owner, name, given, len(given.path) - 1)
    if given.place.startswith("flag ") and _is_secret(field) and isinstance(given.value, str):
        raise ConfigError(
            "a secret is not taken from the command line, where every user of the machine can read it",
            where=given.place,
            advice=f"set {name}_file, or the environment variable",
        )
    if isinstance(given.value, str) and _is_collection(field):
        return msgspec.structs.replace(given, value=_parse_collection(given))
    return given


def near(name: str, names: Iterable[str]) -> str:
    """Advice for an unknown name: the nearest known ones, or all of them."""
    known = sorted(names)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(repr(other) for other in close) + "?"
    return "known are " + ", ".join(known)


def _leaves(content: Mapping[str, Any], path: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name), value


def _field(owner: type[BaseModel], name: str, given: Given, depth: int) -> FieldInfo:
    field = owner.model_fields.get(name)
    if field is None:
        dotted = ".".join(given.path[: depth + 1])
        raise ConfigError(f"unknown setting {dotted!r}", where=given.place, advice=near(name, owner.model_fields))
    return field


def _types_of(field: FieldInfo | None) -> list[Any]:
    if field is None:
        return []
    if get_origin(field.annotation) in (Union, types.UnionType):
        return list(get_args(field.annotation))
    return [field.annotation]


def _nested_model(field: FieldInfo) -> type[BaseModel] | None:
    for candidate in _types_of(field):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _is_secret(field: FieldInfo | None) -> bool:
    return Secret in _types_of(field)


def _is_collection(field: FieldInfo) -> bool:
    return any((get_origin(kind) or kind) in (list, tuple, set, frozenset, dict) for kind in _types_of(field))


def _parse_collection(given: Given) -> Any:
    try:
        return json.loads(given.value)
    except ValueError as error:
        raise ConfigError(
            f"{'.'.join(given.path)} is not valid JSON: {error}", where=given.place, advice='write it as ["a", "b"]'
        ) from error


def _read_secret(given: Given) -> str:
    file = (given.directory or Path()) / str(given.value)
    try:
        with file.open("rb") as opened:
            content = opened.read(SECRET_FILE_LIMIT_BYTES + 1)
        text = content.decode().rstrip("\r\n")
    except OSError as error:
        raise ConfigError(
            f"cannot read the secret file {file} ({error.strerror})",
            where=given.place,
            advice="check path and permissions",
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the secret file {file} is not UTF-8 text", where=given.place) from error
    if not text or len(content) > SECRET_FILE_LIMIT_BYTES:
        raise ConfigError(
            f"the secret file {file} is empty or larger than {SECRET_FILE_LIMIT_BYTES} bytes", where=given.place
        )
    return text
