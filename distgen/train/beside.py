"""What `distgen evaluate` measures beside a model: intervals, baselines, and the part without what the training part has as well."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor

from distgen.errors import ConfigError
from distgen.evaluate import leaks
from distgen.evaluate.baselines import Scored, baselines, mixed
from distgen.evaluate.beside import (
    Features,
    Fitted,
    Rows,
    codes_of,
    count_contexts,
    fit_rows,
    predict,
    stretches,
    windows,
)
from distgen.evaluate.bootstrap import FEWEST, Difference, interval, paired, resampled_means
from distgen.evaluate.contexts import WIDEST, Contexts
from distgen.evaluate.intervals import enough, resampled
from distgen.evaluate.kept import KINDS, Kept, Predictions
from distgen.evaluate.kmers import LONGEST, Sparse, Words
from distgen.evaluate.logistic import Kind
from distgen.evaluate.metrics import Chosen, Collector, Units, Values, named_value
from distgen.evaluate.motifs import Motifs
from distgen.genome import Bits, Bytes, Interval
from distgen.loader.base import Loader
from distgen.loader.batch import Batch
from distgen.objectives import Objective, guesses
from distgen.store.collection import Collection
from distgen.store.reader import Store
from distgen.train.run import Part, Run, Stores

_CLASSES = "base_classes"
_MOST = 1 << 24  # answers of bins that are kept: their intervals take a minute or two
_MEANS = ("loss", "bits_per_base", "accuracy")  # over targets: of a unit they are means, so of many units as well


@dataclass(frozen=True)
class Beside:
    """What is asked for.

    Args:
        intervals: how sure each metric is.
        baseline: what anyone can fit in a minute; it has intervals, too.
        motifs: a file of motif matrices, which are one more baseline.
        leak_k: also without windows that share a word of so many bases with the training part.
    """

    intervals: bool = False
    baseline: bool = False
    motifs: Path | None = None
    leak_k: int | None = None


class Comparison:
    """A model and what is beside it, on the same windows.

    Args:
        run, store, objective: what is measured.
        part: of the split.
        loader: serves it whole.
        asked: what is to be found.
        units: takes the model's predictions already, if they are asked for by themselves.

    Attributes:
        keep: what else takes the model's predictions.

    Raises:
        ConfigError: what is asked for is nothing that this question has.
    """

    def __init__(
        self,
        run: Run,
        store: Stores,
        objective: Objective,
        part: Part,
        loader: Loader,
        asked: Beside,
        units: Units | None = None,
    ):
        self._run, self._store, self._objective, self._part = run, store, objective, part
        self._loader, self._asked, self._given = loader, asked, units
        self._kind = self._kind_kept()
        self._refuse()
        self._motifs = None if asked.motifs is None else Motifs.read(asked.motifs)
        # The log of a rate is what a model of counts says.
        self._logs = objective.window is not None and getattr(run.objective, "loss", "") == "poisson"
        self._leaked = None if asked.leak_k is None else self._find_leaks(asked.leak_k)
        self._wanted = asked.intervals or asked.baseline or self._motifs is not None
        self.keep: list[Collector] = []
        self._kept, self._units, self._without = self._keep(self._kind is not None)

    def _kind_kept(self) -> Kind | None:
        """What kind of answers are kept one by one; None where there are none, or too many, as of single bases."""
        kind, objective = KINDS.get(self._run.objective.kind), self._objective
        if kind is None or objective.window is not None:
            return kind
        if objective.bin_bp == 1 or self._run.data.packed:
            return None
        bins = len(self._loader) * self._loader.batch_size * Rows.of(kind, objective, self._loader).bins
        return kind if bins * objective.out_channels <= _MOST else None

    def _refuse(self) -> None:
        run, asked = self._run, self._asked
        if (asked.leak_k or asked.baseline) and run.data.packed:
            raise run.error("data.packed", "of rows that hold several samples no one can be left out or fitted to")
        language = run.objective.kind in guesses.KINDS and isinstance(self._store, Store)
        if asked.baseline and self._kind is None and not language and run.objective.kind != _CLASSES:
            problem = f'there is no baseline of "{run.objective.kind}" on {self._store.path}'
            if self._objective.bin_bp > 1:
                problem = f"baselines of bins are for {_MOST:,} answers at most, and this part has more"
            raise run.error("objective.kind", f"{problem}: leave out --baseline")
        if asked.motifs and self._kind != "binary":
            problem = (
                f'motif matrices answer "binary", "multilabel" and bins of "base_classes", not "{run.objective.kind}"'
            )
            raise run.error("objective.kind", f"{problem}: leave out --motifs")
        if asked.leak_k is None:
            return
        if not leaks.SHORTEST <= asked.leak_k <= leaks.LONGEST:
            raise ConfigError(f"--leak-k {asked.leak_k} is not between {leaks.SHORTEST} and {leaks.LONGEST}")
        if (window := self._loader.lengths[-1].window) < asked.leak_k:
            raise ConfigError(f"--leak-k {asked.leak_k} is more than the {window} bases of a window")

    def _keep(self, whole: bool) -> tuple[Kept | None, Units | None, Chosen | None]:
        kept = self._new_kept() if self._wanted and whole else None
        units = (
            (self._given or Units(self._loader)) if self._wanted and not whole and not self._run.data.packed else None
        )
        without = None
        if self._leaked is not None:
            without = Chosen(self._objective.metrics(self._loader.device), ~self._leaked)
        self.keep += [taker for taker in (kept, units, without) if taker is not None and taker is not self._given]
        return kept, units, without

    def _new_kept(self) -> Kept:
        assert self._kind is not None
        return Kept(self._kind, self._unit, logs=self._logs)

    @property
    def _unit(self) -> Callable[[Interval], str] | None:
        """Sequences of a table are drawn one by one, windows of a genome with all of their unit."""
        if isinstance(self._store, Store) and self._store.is_table:
            return None
        if not hasattr(self, "_named"):
            self._named = (self._given or Units(self._loader)).name
        return self._named

    def _serve(self, part: Part) -> Loader:
        return self._run.loader(self._store, self._objective, part, device=self._loader.device)

    def _find_leaks(self, k: int) -> Bits:
        return leaks.leaked(windows(self._loader), self._trained_on(k), k)

    def _trained_on(self, k: int) -> Iterator[Bytes]:
        """All that a training can have seen: of a genome its whole training part, whatever windows one epoch draws there;
        what its windows hold where there is no more, and as samples have them."""
        store, run = self._store, self._run
        stores = [store.store(row) for row in range(len(store))] if isinstance(store, Collection) else [store]
        genomes = [one for one in stores if isinstance(one, Store) and not one.is_table]
        for genome in genomes:
            if "train" in genome.parts(run.data.split):
                yield from stretches(genome, genome.regions("train", run.data.split), k)
        if len(genomes) < len(stores) or run.data.personal:
            yield from windows(self._serve("train"))

    def result(self, values: Values) -> dict[str, Any]:
        """{"intervals", "baselines", "without_leaks"}, each where there is one.

        Args:
            values: the model's metrics, whose names are the ones that intervals are given of.
        """
        if self._run.objective.kind in guesses.KINDS and isinstance(self._store, Store):
            found = self._language()
        elif self._units is not None:
            found = {"intervals": _unit_intervals(self._units), "baselines": self._along()}
        else:
            found = self._windows(values)
        if self._leaked is not None and self._without is not None:
            count = {"k": self._asked.leak_k, "windows": len(self._leaked), "leaked": int(self._leaked.sum())}
            rest = found.pop("without_leaks", {})
            found["without_leaks"] = count | {"metrics": self._without.compute()} | rest
        return {name: value for name, value in found.items() if value}

    # ---- windows that have one answer each, and bins

    def _windows(self, values: Values) -> dict[str, Any]:
        if self._kept is None:
            return {}
        model, found = self._kept.predictions(), dict[str, Any]()
        beside: dict[str, tuple[dict[str, Any], Values | None, Predictions]] = {}
        for name, fitted in self._fit().items():
            kept, whole = self._new_kept(), Chosen(self._objective.metrics(self._loader.device))
            less = None
            if self._leaked is not None:
                less = Chosen(self._objective.metrics(self._loader.device), ~self._leaked)
            predict(fitted.logits, self._objective, self._loader, [kept, whole, *([less] if less else [])])
            entry: dict[str, Any] = {"metrics": whole.compute(), "windows": fitted.windows, "of": fitted.of}
            beside[name] = entry, None if less is None else less.compute(), kept.predictions()
        found |= _compared(values, model, {name: (entry, kept) for name, (entry, _, kept) in beside.items()})
        if self._leaked is not None:
            rest = np.repeat(~self._leaked, len(model.scores) // len(self._leaked))
            others = {name: ({"metrics": less}, kept.of(rest)) for name, (_, less, kept) in beside.items()}
            found["without_leaks"] = _compared(values, model.of(rest), others)
        return found

    def _fit(self) -> dict[str, Fitted]:
        if not self._asked.baseline and self._motifs is None:
            return {}
        assert self._kind is not None
        train = self._serve("train")
        rows = Rows.of(self._kind, self._objective, train)
        width = rows.width(train.lengths[-1].window)
        features: dict[str, Features] = {}
        if self._asked.baseline:
            # Where both strands are answered alike and both are trained on, words are counted on both.
            both = _same_on_both(self._objective.swap) and self._run.data.strand in ("random", "both")
            # Bins are many, and have room for fewer words.
            words = Words.of(LONGEST - (rows.bins > 0), both_strands=both)
            name = "k-mer ridge regression" if self._kind == "regression" else "k-mer logistic regression"
            features[name] = Features(words.count, words.entries(width))
        if (motifs := self._motifs) is not None:
            cost = max(len(motifs.names), width * len(motifs.scores) // 100)  # as words take time, more or less
            features["motif scan"] = Features(lambda codes: Sparse.of(motifs.scan(codes)), cost, scaled=True)
        held_out = self._part != "valid" and self._run.has("valid", self._store)
        valid = self._serve("valid") if held_out else None
        together = self._unit is not None
        return {
            name: fit_rows(seen, rows, train, valid, together=together, logs=self._logs)
            for name, seen in features.items()
        }

    # ---- classes along the genome

    def _along(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        widths = {"prevalence": 0, f"{WIDEST} bases around": WIDEST} if self._asked.baseline else {}
        for name, widest in widths.items():
            counted = count_contexts(self._objective, self._serve("train"), widest)
            whole = Chosen(self._objective.metrics(self._loader.device))
            units = Units(self._loader)
            predict(partial(_of_codes, counted), self._objective, self._loader, [whole, units])
            found[name] = {"metrics": whole.compute()}
            assert self._units is not None
            found[name] |= _means_compared(self._units.compute(), units.compute(), "loss")
        return found

    # ---- language models

    def _language(self) -> dict[str, Any]:
        store, run = cast(Store, self._store), self._run
        regions = {part: store.regions(part, run.data.split) for part in ("train", self._part)}
        scored = baselines(store, regions["train"], regions[self._part])
        if self._asked.baseline:
            held_out = self._part != "valid" and run.has("valid", store)
            valid = store.regions("valid", run.data.split) if held_out else None
            scored |= mixed(store, regions["train"], valid, regions[self._part])
        found: dict[str, Any] = {
            name: {"metrics": {"bits_per_base": scored_one.mean()}} for name, scored_one in scored.items()
        }
        if self._units is None:
            return {"baselines": found}
        mine = self._units.compute()
        for name, scored_one in scored.items():
            found[name] |= self._by_unit(mine, scored_one)
        return {"intervals": _unit_intervals(self._units), "baselines": found}

    def _by_unit(self, mine: dict[str, dict[str, Any]], scored: Scored) -> dict[str, Any]:
        """The intervals of a baseline, and the difference from it, over the units that a model was measured on."""
        assert self._units is not None
        lengths = self._loader.lengths[-1]
        margin = (lengths.window - (lengths.target_length or lengths.window)) // 2
        sums: dict[str, np.ndarray[Any, Any]] = {unit: np.zeros(2) for unit in mine}
        contigs = cast(Store, self._store).contigs
        for position in range(0, len(self._loader) * self._loader.batch_size, self._loader.batch_size):
            places = self._loader.places(0, position)[1]
            rows = [contigs.index(place.contig) for place in places]
            ends = contigs.lengths[rows]
            offsets = contigs.offsets[rows]
            starts = np.clip(np.array([place.start + margin for place in places]), 0, ends) + offsets
            stops = np.clip(np.array([place.end - margin for place in places]), 0, ends) + offsets
            for place, bits, bases in zip(places, *scored.within(starts, stops), strict=True):
                if (unit := self._units.name(place)) in sums:
                    sums[unit] += bits, bases
        theirs = {unit: {"bits_per_base": bits / bases} for unit, (bits, bases) in sums.items() if bases}
        return _means_compared(mine, theirs, "bits_per_base")


def _of_codes(counted: Contexts, batch: Batch) -> Tensor:
    return counted.logits(codes_of(batch))


def _same_on_both(swap: tuple[tuple[str, str], ...] | None) -> bool:
    """Whether each output answers for both strands at once; see `distgen.models.schema.Schema`."""
    return swap is not None and all(one == other for one, other in swap)


def _means_compared(mine: dict[str, Any], theirs: dict[str, Any], metric: str) -> dict[str, Any]:
    """The interval of a baseline, and the difference from it, of a metric that is a mean over targets, by units."""
    units = sorted(mine.keys() & theirs.keys())
    if len(units) < FEWEST:
        return {}
    targets = np.array([mine[unit]["targets"] for unit in units], float)
    one, other = (np.array([side[unit][metric] for unit in units], float) for side in (mine, theirs))
    model, baseline = (resampled_means(values, targets) for values in (one, other))
    return {"intervals": {metric: interval(baseline)}} | _differences({metric: paired(model, baseline)})


def _differences(found: dict[str, Difference | None]) -> dict[str, Any]:
    """As an evaluation keeps them, by metric."""
    known = {metric: difference._asdict() for metric, difference in found.items() if difference is not None}
    return {"p": {metric: table.pop("p") for metric, table in known.items()}, "difference": known}


def _compared(
    values: Values, model: Predictions, others: dict[str, tuple[dict[str, Any], Predictions]]
) -> dict[str, Any]:
    """Intervals of a model, and of what is beside it, with the differences; of metrics that the question has."""
    found: dict[str, Any] = {"baselines": {name: dict(entry) for name, (entry, _) in others.items()}}
    if not enough(model):
        return found
    mine, *theirs = resampled([model, *(predictions for _, predictions in others.values())])
    names = [name for name in mine if named_value(dict(values), name) is not None]
    found["intervals"] = {name: interval(mine[name]) for name in names}
    for name, their in zip(others, theirs, strict=True):
        found["baselines"][name] |= {"intervals": {metric: interval(their[metric]) for metric in names}}
        found["baselines"][name] |= _differences({metric: paired(mine[metric], their[metric]) for metric in names})
    return found


def _unit_intervals(units: Units) -> dict[str, list[float] | None]:
    """Intervals of the metrics that are means over targets."""
    by_unit = list(units.compute().values())
    if len(by_unit) < FEWEST:
        return {}
    targets = np.array([unit["targets"] for unit in by_unit], float)
    found: dict[str, list[float] | None] = {}
    for name in _MEANS:
        if all(isinstance(unit.get(name), float) for unit in by_unit):
            values = np.array([unit[name] for unit in by_unit])
            found[name] = interval(resampled_means(values, targets))
    return found
