"""Typed, frozen configuration: TOML in, every check in one place, a canonical hash out.

The sections of a recipe and of a run live here, except `[model]` and `[objective]`, which live with
the code they configure; `distgen.train.run.Run` puts a whole run together.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from distgen.errors import ConfigError, suggest

# The bounds of waits, in seconds: this table is the one place that says them.
TIMEOUTS = {
    "worker_start": 120.0,  # all training workers placed and running
    "process_group": 300.0,  # one collective operation between training workers
    "next_batch": 300.0,  # the loader's thread has a batch ready
}

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=100)]
Strings = Annotated[tuple[str, ...], Field(strict=False)]
Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0, lt=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A table of a TOML file: unknown keys and wrong types are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class File(Section):
    """A whole TOML file; paths in it are relative to where it lies."""

    _path: Path = PrivateAttr(default=Path("-"))  # as the user wrote it, for messages
    _folder: Path = PrivateAttr(default=Path("-"))  # absolute: workers run elsewhere
    _text: str = PrivateAttr(default="")

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
        expanded = os.path.expandvars(path)
        if "$" in expanded:
            name = expanded[expanded.index("$") :].split("/")[0]
            raise self.error(key, f"{path} needs {name}, which is not set")
        return (self._folder / Path(expanded).expanduser()).resolve()

    def error(self, key: str, problem: str) -> ConfigError:
        """The error to raise for a value that only turned out to be wrong after parsing."""
        kind = type(self).__name__.lower()
        keys: list[int | str] = [int(part) if part.isdigit() else part for part in key.split(".")]
        return ConfigError(f"{kind} {_place(self._path, self._text, keys)}: {problem}")


# ---- recipe ---------------------------------------------------------------------------------


class Assembly(Section):
    """One genome: its name, its FASTA file, and the file's SHA-256 where it must be that very file."""

    name: Name
    fasta: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None


class ContigRules(Section):
    """Which contigs go into the store: globs, and a least length in bases."""

    include: Strings = ("*",)
    exclude: Strings = ()
    min_length: NotNegative = 0


class Track(Section):
    """Classes along the assembly, from a GTF: `cds+` is every CDS feature on the + strand.

    A bin carries a class when any of its bases does. `swap` names the pairs of classes that change
    places when a window is read from the other strand; by default those that differ in a final
    + and - alone.
    """

    name: Name
    source: str
    classes: Annotated[tuple[Name, ...], Field(strict=False, min_length=1, max_length=64)]
    bin_bp: Positive = 1
    swap: Annotated[tuple[Annotated[Strings, Field(min_length=2, max_length=2)], ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _check(self) -> Track:
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("classes must differ")
        for pair in self.swap:
            for name in pair:
                if name not in self.classes:
                    raise ValueError(f'swap names class "{name}". {suggest(name, self.classes)}')
        return self

    def permutation(self) -> tuple[int, ...]:
        """Where each class is found on the other strand: class i becomes class permutation[i]."""
        pairs = self.swap or tuple(
            (name, name[:-1] + "-") for name in self.classes if name.endswith("+") and name[:-1] + "-" in self.classes
        )
        order = list(range(len(self.classes)))
        for one, other in pairs:
            i, j = self.classes.index(one), self.classes.index(other)
            order[i], order[j] = j, i
        return tuple(order)


class Split(Section):
    """Which stretches validate and test; `train` is the rest unless named.

    Each entry is a contig, a glob, or `contig:start-end` (0-based, half-open, or in percent).
    """

    train: Strings = ()
    valid: Strings = ()
    test: Strings = ()


class Recipe(File):
    """What a store is made of; `distgen build` reads it."""

    format: Literal[1]
    assembly: Assembly
    contigs: ContigRules = ContigRules()
    track: Annotated[tuple[Track, ...], Field(strict=False)] = ()
    split: Split = Split()

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        names = [track.name for track in self.track]
        if len(set(names)) < len(names):
            raise ValueError("tracks must have different names")
        return self


# ---- run ------------------------------------------------------------------------------------


class Data(Section):
    """What a sample is; lengths in bases. `batch_size` is global: all workers together."""

    store: str
    split: Name = "default"
    window: Positive = 1024
    target_length: Positive | None = None
    stride: Positive | None = None
    batch_size: Positive = 32
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    strand: Literal["forward", "random", "both"] = "forward"
    jitter: NotNegative = 0
    order: Literal["flat"] = "flat"
    placement: Literal["auto", "device", "host"] = "auto"


class Optimizer(Section):
    """AdamW; the rate rises linearly for `warmup_steps`, then falls to zero along a cosine."""

    lr: Annotated[float, Field(gt=0)] = 3e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    betas: Annotated[tuple[Beta, Beta], Field(strict=False)] = (0.9, 0.98)
    warmup_steps: NotNegative = 50
    clip_norm: Annotated[float, Field(gt=0)] = 1.0


class Train(Section):
    """How long, how precisely, and what is kept. `valid_every` and `checkpoint_every` count steps; the
    last step is always validated and saved."""

    steps: Positive | None = None
    epochs: Positive | None = None
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    threads: Positive | None = None
    valid_every: Positive | None = None
    checkpoint_every: Positive | None = None
    keep: Positive = 2

    @model_validator(mode="after")
    def _check(self) -> Train:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        return self


class Cluster(Section):
    """`workers = 0` trains in this process; N starts N Ray Train workers."""

    workers: NotNegative = 0
    cpus_per_worker: Positive = 1
    max_failures: NotNegative = 0


class Log(Section):
    """A record goes to metrics.jsonl `every` so many steps."""

    every: Positive = 10


# ---- reading --------------------------------------------------------------------------------

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
        text = path.read_bytes().decode()
        table = tomllib.loads(text)
    except FileNotFoundError:
        near = sorted(str(other) for other in path.parent.glob("*.toml"))
        raise ConfigError(f"{kind} {path}: there is no such file. {suggest(str(path), near)}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{kind} {path}: {error}") from None
    for override in overrides or ():
        _override(table, override)
    try:
        parsed = schema.model_validate(table)
    except ValidationError as error:
        raise ConfigError(_explain(error, kind, path, text, schema, table)) from None
    parsed._path, parsed._folder, parsed._text = path, path.resolve().parent, text
    return parsed


def digest(value: Any) -> str:
    """A hash of plain data (dicts, lists, numbers, strings): 32 hexadecimal digits, the same on any machine."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def _override(table: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *sections, last = key.strip().split(".")
    if not equals or not sections:
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
    error: ValidationError, kind: str, path: Path, text: str, schema: type[BaseModel], table: dict[str, Any]
) -> str:
    """One line for the first thing that is wrong, and how many more there are."""
    first, *more = error.errors(include_url=False)
    keys = _keys(first["loc"], table)
    where, given = _place(path, text, keys), first["input"]
    if first["type"] == "extra_forbidden":
        problem = f'there is no key "{keys[-1]}" here. {suggest(str(keys[-1]), _fields(schema, first["loc"]))}'
    elif first["type"] == "missing":
        problem = f'"{keys[-1]}" is missing'
    elif first["type"] in ("literal_error", "union_tag_invalid"):
        context = first["ctx"]
        expected = str(context.get("expected") or context.get("expected_tags"))
        choices = re.findall(r"'([^']*)'", expected) or [expected]
        word = given if first["type"] == "literal_error" else context["tag"]
        problem = f'"{word}" is none of the choices. {suggest(str(word), choices)}'
    else:
        problem = first["msg"].removeprefix("Value error, ")
        problem = problem[0].lower() + problem[1:]
        if not isinstance(given, dict):
            problem += f", not {json.dumps(given, default=str)}"
    others = f" (and {len(more)} more)" if more else ""
    return f"{kind} {where}: {problem}{others}"


def _keys(location: tuple[int | str, ...], table: Any) -> list[int | str]:
    """A pydantic location as it stands in the file: without the tags of unions."""
    keys: list[int | str] = []
    for number, part in enumerate(location):
        inside = part in table if isinstance(table, dict) else isinstance(part, int)
        if inside:
            table = table[part]
        if inside or number == len(location) - 1:
            keys.append(part)
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


def _place(path: Path, text: str, keys: list[int | str]) -> str:
    """`path:line: track[0].source`, with the line of the key or of the table that should hold it."""
    lines = _lines(text)
    known = (lines[tuple(keys[:n])] for n in range(len(keys), 0, -1) if tuple(keys[:n]) in lines)
    line = next(known, None)
    name = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).lstrip(".")
    return ": ".join(str(part) for part in (f"{path}:{line}" if line else path, name) if part)


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
