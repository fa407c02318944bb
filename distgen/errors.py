"""What distgen raises: each message says what was wrong, where, and what would be right."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


class DistgenError(Exception):
    """Any failure distgen can explain. `exit_status` is what the command line ends with; a `passing` one may not come
    again when the same is done again."""

    exit_status = 1
    passing = False


class ConfigError(DistgenError):
    """A recipe, a run or an argument asks for what does not exist or does not fit.

    Args:
        problem: what is wrong, and what would be right.
        key: the argument or key that is wrong, where whoever raises this knows no file.
        placed: `problem` says in which file and line it stands.
    """

    exit_status = 2

    def __init__(self, problem: str, *, key: str = "", placed: bool = False):
        super().__init__(f"{key}: {problem}" if key else problem)
        self.problem, self.key, self.placed = problem, key, placed


class SourceError(DistgenError):
    """A source file (FASTA, GTF, ...) is missing, damaged or not what it should be."""

    exit_status = 2


class StoreError(DistgenError):
    """A store is missing, unfinished, damaged, or lacks what is asked of it."""


class DamageError(StoreError):
    """Some chunks of an array are not what was published, or are not there.

    Args:
        problem: which, how, and what mends them.
        first, last: the chunks [first, last) of the array.
    """

    def __init__(self, problem: str, *, first: int = 0, last: int = 0):
        super().__init__(problem)
        self.first, self.last = first, last


class RemoteError(DistgenError):
    """What holds a store elsewhere cannot be reached, refuses, or fails; the store itself may be whole."""

    passing = True


class WindowError(DistgenError, ValueError):
    """A window leaves the plane it is read from."""


class CheckpointError(DistgenError):
    """A checkpoint is damaged or belongs to another run or store."""


class TrainError(DistgenError):
    """Training cannot go on: a worker failed, the loss is not finite, a wait ran out."""


class LostError(TrainError):
    """What a training needs went away: workers, Ray, a wait that ran out. Another start goes on from the newest
    checkpoint."""

    exit_status = 69  # EX_UNAVAILABLE of sysexits.h
    passing = True


class PreemptedError(TrainError):
    """Training was asked to leave before its end; what it did is kept."""

    exit_status = 75  # EX_TEMPFAIL of sysexits.h: ask again later
    passing = True


def suggest(word: str, valid: Iterable[str]) -> str:
    """A sentence that names the nearest valid word and lists the valid ones (at most twelve)."""
    words = list(valid)
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return (f'Did you mean "{near[0]}"? ' if near else "") + (
        f"Valid: {some(words, 12)}." if words else "There is none."
    )


def named(table: Mapping[str, T], name: str, where: str, what: str) -> T:
    """What a table has under a name.

    Raises:
        ConfigError: nothing; says `where` there is no such `what`, and names the nearest.
    """
    if name not in table:
        raise ConfigError(f'{where} has no {what} "{name}". {suggest(name, table)}')
    return table[name]


def beside(path: Path, pattern: str = "*") -> str:
    """A sentence on what stands in the folder where a file was looked for."""
    if not path.parent.is_dir():
        return f"There is no folder {path.parent} either."
    return suggest(path.name, sorted(other.name for other in path.parent.glob(pattern) if other.is_file()))


def some(words: Sequence[str], most: int = 5) -> str:
    """The first words, and how many there are if these are not all."""
    return ", ".join(words[:most]) + (f", ... ({len(words)} in all)" if len(words) > most else "")


def redact(text: str) -> str:
    """A text without what may be secret in its URIs: user, password and query (RFC 3986, 3.2.1 and 3.4)."""
    return re.sub(r"""([A-Za-z][\w+.-]*://)(?:[^\s"'/?]*@)?([^\s"'?]*)(?:\?[^\s"']*)?""", r"\1\2", text)
