"""A TOML file read into typed, frozen sections: unknown keys and wrong values are named with their line."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError
from pydantic_core import ErrorDetails

from distgen.errors import ConfigError, beside, redact, suggest

NAME, SHA256 = r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", r"^[0-9a-f]{64}$"
Name = Annotated[str, Field(pattern=NAME, max_length=100)]
Strings = Annotated[tuple[str, ...], Field(strict=False)]
Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


# What pydantic would say in words of Python, in words of TOML.
_IN_TOML = {
    "tuple_type": "it should be a list, such as [ value ]",
    "model_type": "it should be a table, such as { key = value }",
    "dict_type": "it should be a table, such as { key = value }",
    NAME: "a name has letters, digits, dots, underscores, + and -, and begins with a letter or a digit",
    SHA256: "it should be 64 hexadecimal digits in lower case",
}


class TableError(ValueError):
    """What a validator of a table refuses, at a key below that table."""

    def __init__(self, problem: str, *keys: int | str):
        super().__init__(problem)
        self.keys = keys


class Section(BaseModel):
    """A table of a TOML file: unknown keys and wrong types are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class File(Section):
    """A whole TOML file; paths in it are relative to where it lies."""

    _path: Path = PrivateAttr(default=Path("-"))  # as the user wrote it, for messages
    _folder: Path = PrivateAttr(default=Path("-"))  # absolute: workers run elsewhere
    _text: str = PrivateAttr(default="")
    _overrides: tuple[str, ...] = PrivateAttr(default=())

    @property
    def path(self) -> Path:
        """The file this was read from."""
        return self._path

    @property
    def text(self) -> str:
        """The file's text, byte for byte."""
        return self._text

    def resolve(self, path: str, key: str) -> Path:
        """The path that stands at a key, made absolute; $NAME stands for an environment variable."""
        expanded = self.expand(path, key)
        if "://" in expanded:
            raise self.error(key, f"{expanded} is a URI, and only a path on this machine can stand here")
        return (self._folder / Path(expanded).expanduser()).resolve()

    def expand(self, text: str, key: str) -> str:
        """What stands at a key, with environment variables put in for their $NAMEs.

        A $ in a URI's query is no name.
        """
        expanded = os.path.expandvars(text)
        unset = expanded.partition("?")[0] if "://" in expanded else expanded
        if "$" in unset:
            name = unset[unset.index("$") :].split("/")[0]
            raise self.error(key, f"{redact(text)} needs {name}, which is not set")
        return expanded

    def error(self, key: str, problem: str) -> ConfigError:
        """The error to raise for a value that only turned out to be wrong after parsing."""
        kind = type(self).__name__.lower()
        keys: list[int | str] = [int(part) if part.isdigit() else part for part in key.split(".")]
        where = _place(self._path, self._text, keys, self._overrides)
        return ConfigError(f"{kind} {where}: {redact(problem)}", placed=True)

    @contextmanager
    def at(self, key: str) -> Iterator[None]:
        """What is raised here about arguments that stand below a key is raised with the file, the line and the key."""
        try:
            yield
        except ConfigError as error:
            if error.placed:
                raise
            raise self.error(".".join(filter(None, (key, error.key))), error.problem) from None


def source_name(source: str) -> str:
    """The file name at the end of a path or of a URI, whose query is no part of it."""
    return redact(source).rsplit("/", 1)[-1]


F = TypeVar("F", bound=File)


def read(path: str | Path, schema: type[F], overrides: list[str] | None = None) -> F:
    """Read and check a TOML file.

    Args:
        path: the file.
        schema: what it must look like (`Recipe`, `Run`).
        overrides: `section.key=value` each; the value is TOML, or a bare word taken as a string.

    Raises:
        ConfigError: the file, line and key that is wrong, and the nearest valid choice.
    """
    path = Path(path)
    kind = schema.__name__.lower()
    try:
        text = path.read_bytes().decode("utf-8-sig")  # editors on Windows put a mark first
        table = tomllib.loads(text)
    except FileNotFoundError:
        raise ConfigError(f"{kind} {path}: there is no such file. {beside(path, '*.toml')}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{kind} {path}: {error}") from None
    for override in overrides or ():
        _override(table, override)
    try:
        parsed = schema.model_validate(table)
    except ValidationError as error:
        raise ConfigError(_explain(error, kind, path, text, schema, table, overrides or ())) from None
    parsed._path, parsed._folder, parsed._text = path, path.resolve().parent, text
    parsed._overrides = tuple(overrides or ())
    return parsed


S = TypeVar("S", bound=Section)


def checked(schema: type[S], table: dict[str, Any]) -> S:
    """A section from arguments, checked as if it stood in a file.

    Raises:
        ConfigError: the key that is wrong, and the nearest valid choice.
    """
    try:
        return schema.model_validate(table)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        keys = _keys(first, table)
        raise ConfigError(_problem(first, keys, schema), key=".".join(map(str, keys))) from None


def digest(value: Any) -> str:
    """A hash of plain data (dicts, lists, numbers, strings): 32 hexadecimal digits, the same on any machine."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def _override(table: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *sections, last = key.strip().split(".")
    if not equals or not last:
        raise ConfigError(f'"{override}" is no override. Write section.key=value, such as train.steps=200')
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise ConfigError(f'"{override}": {section} is no section')
    table[last] = value


def _explain(
    error: ValidationError,
    kind: str,
    path: Path,
    text: str,
    schema: type[BaseModel],
    table: dict[str, Any],
    overrides: Sequence[str],
) -> str:
    """One line for the first thing that is wrong, and how many more there are."""
    # A misspelled key is also a missing one: the spelling is what helps.
    first, *more = sorted(error.errors(include_url=False), key=lambda found: found["type"] != "extra_forbidden")
    keys = _keys(first, table)
    where = _place(path, text, [*keys, *getattr(first.get("ctx", {}).get("error"), "keys", ())], overrides)
    more = [other for other in more if _keys(other, table) != keys]  # of a union each choice has its own
    others = f" (and {len(more)} more)" if more else ""
    return f"{kind} {where}: {redact(_problem(first, keys, schema))}{others}"


def _problem(first: ErrorDetails, keys: list[int | str], schema: type[BaseModel]) -> str:
    given, context = first["input"], first.get("ctx", {})
    if first["type"] == "extra_forbidden":
        return f'there is no key "{keys[-1]}" here. {suggest(str(keys[-1]), _fields(schema, first["loc"]))}'
    if first["type"] == "missing":
        return "there is a value too few" if isinstance(keys[-1], int) else f'"{keys[-1]}" is missing'
    if first["type"] in ("literal_error", "union_tag_invalid"):
        expected = str(context.get("expected") or context.get("expected_tags"))
        choices = re.findall(r"'([^']*)'", expected) or [expected]
        word = given if first["type"] == "literal_error" else context["tag"]
        return f'"{word}" is none of the choices. {suggest(str(word), choices)}'
    if first["type"] == "tuple_type" and isinstance(given, dict):
        return f"there may be several: write [[{keys[-1]}]]"
    if first["type"] == "tuple_type" and isinstance(given, str):
        return f"it should be a list, such as {json.dumps([given])}, not {json.dumps(given)}"
    problem = first["msg"].removeprefix("Value error, ")
    problem = _IN_TOML.get(context.get("pattern", first["type"]), problem[0].lower() + problem[1:])
    return problem if isinstance(given, dict) else f"{problem}, not {json.dumps(given, default=str)}"


def _keys(error: ErrorDetails, table: Any) -> list[int | str]:
    """Where an error is in the file: pydantic's location without the tags of unions, and the key of a tag that is wrong."""
    location = error["loc"]
    if error["type"] == "union_tag_invalid":
        location = (*location, error["ctx"]["discriminator"].strip("'"))
    keys: list[int | str] = []
    location = tuple(part for part in location if part != "[key]")  # which key it is stands before
    for number, part in enumerate(location):
        fits = isinstance(table, dict) or (isinstance(table, list | tuple) and isinstance(part, int))
        inside = fits and (part in table if isinstance(table, dict) else part in range(len(table)))
        if inside or (fits and number == len(location) - 1):  # what is not there is missing
            keys.append(part)
        if inside:
            table = table[part]
    return keys


def _fields(schema: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys that are valid where a pydantic location points to."""
    models = [schema]
    for part in location[:-1]:
        tagged = [m for m in models if any(part in get_args(f.annotation) for f in m.model_fields.values())]
        fields = [m.model_fields[part] for m in models if isinstance(part, str) and part in m.model_fields]
        if tagged or fields:
            models = tagged or [inner for field in fields for inner in _models(field.annotation)]
    return list(dict.fromkeys(name for model in models for name in model.model_fields))


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models(inner)]


def _place(path: Path, text: str, keys: list[int | str], overrides: Sequence[str] = ()) -> str:
    """`path:line: track[0].source`, with the line of the key or of the table that should hold it; what an override
    gives stands in no line."""
    given = [override.partition("=")[0].strip().split(".") for override in overrides]
    overridden = any(key == list(map(str, keys))[: len(key)] for key in given)
    lines = _lines(text)
    known = (lines[tuple(keys[:n])] for n in range(len(keys), 0, -1) if tuple(keys[:n]) in lines)
    line = next(known, None)
    name = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).lstrip(".")
    where = f"{path} as overridden" if overridden else f"{path}:{line}" if line else str(path)
    return f"{where}: {name}" if name else where


def _lines(text: str) -> dict[tuple[int | str, ...], int]:
    """The line of every table and key of a TOML text."""
    found: dict[tuple[int | str, ...], int] = {}
    table: tuple[int | str, ...] = ()
    counts: Counter[str] = Counter()
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\[\s*([\w.-]+)", line):
            table = (*header[1].split("."), counts[header[1]])
            counts[header[1]] += 1
            found[table] = number
        elif header := re.match(r"\s*\[\s*([\w.-]+)\s*\]", line):
            table = tuple(header[1].split("."))
            found[table] = number
        elif key := re.match(r"\s*([\w.-]+)\s*=", line):
            found[(*table, *key[1].split("."))] = number
    return found
