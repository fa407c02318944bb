"""`distgen info`: what is in a store or a collection, in words."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from distgen.cli import show
from distgen.cli.app import Json, app, local
from distgen.errors import ConfigError


@app.command()
def info(
    store: Annotated[str | None, typer.Argument(help="A store: a path, or s3://…", show_default=False)] = None,
    windows: Annotated[
        Path | None,
        typer.Option(metavar="RUN", parser=local, help="Instead: the windows of a run file or a run directory."),
    ] = None,
    leakage: Annotated[
        str | None, typer.Option(metavar="SPLIT", help="How much of each part of a split resembles another part.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(metavar="STORE", help="With --leakage: what resembles this other store.")
    ] = None,
    families: Annotated[
        bool, typer.Option("--families", help="Instead: the families of models, with the sizes they have by default.")
    ] = False,
    json_: Json = False,
) -> None:
    """Say what is in a store, in the index of a collection, which windows a run has, or which families of models there are."""
    from distgen.ingest.objects import locate
    from distgen.store.collection import is_index

    if against is not None and leakage is None:
        raise ConfigError("--against needs a split of the first store: add --leakage SPLIT")
    if (store is not None) + (windows is not None) + families != 1:
        raise ConfigError("give either a store, or --windows with a run file or a run directory, or --families")
    if families:
        if leakage is not None:
            raise ConfigError("--leakage takes a store: distgen info STORE --leakage SPLIT")
        _say_families(json_)
        return
    if windows is not None:
        if leakage is not None:
            raise ConfigError("--leakage takes a store: distgen info STORE --leakage SPLIT")
        _say_windows(windows, json_)
        return
    assert store is not None
    place = locate(store)
    if isinstance(place, Path) and is_index(place):
        if leakage is not None:
            raise ConfigError(f"{place} is a collection, which has no splits: give --leakage with one of its stores")
        _say_collection(place, json_)
        return
    if leakage is not None and against is not None:
        _say_leakage_against(store, leakage, against, json_)
        return
    if leakage is not None:
        _say_leakage(store, leakage, json_)
        return
    _say_store(store, json_)


def _say_store(store: str, json_: bool) -> None:
    from distgen.report.windows import homology
    from distgen.store.reader import open_store
    from distgen.store.verify import describe

    found = describe(open_store(store))
    if json_:
        typer.echo(json.dumps(found))
        return
    contigs = found.pop("contigs")
    longest = sorted(contigs.items(), key=lambda item: -item[1])[:5]
    rows = [(key, f"{found[key]:,}") for key in ("bases", "ambiguous", "softmasked", "bytes")]
    rows.append(("contigs", f"{len(contigs):,}: " + ", ".join(f"{n} ({size:,})" for n, size in longest)))
    rows += [("left out", sentence) for sentence in show.left_out(found["left_out"])]
    rows += [("letters", _letters(found["letters"].values()))] if found["letters"] else []
    for name, track in found["tracks"].items():
        what = f"{show.few(track['columns'])}; {track['bins']:,} bins of {track['bin_bp']} bp"
        rows.append((f"track {name}", what + _elsewhere(track["skipped"])))
    for name, parts in found["splits"].items() if not found["labels"] else ():
        rows.append((f"split {name}", ", ".join(f"{part} {size:,}" for part, size in parts.items())))
    for name, matrix in found["matrices"].items():
        what = f"{matrix['regions']:,} regions by {show.few(matrix['conditions'])}"
        rows.append((f"matrix {name}", what + _elsewhere(matrix["skipped"])))
    for name, variants in found["variants"].items():
        samples = f"genotypes of {show.few(variants['samples'])}" if variants["samples"] else "no genotypes"
        counts = variants["counts"].items()
        shown = {"records", "substitutions"} | ({"indel"} if variants["indels"] else set())
        others = [f"{kind} {count:,}" for kind, count in counts if count and kind not in shown]
        kept = f", {variants['indels']:,} insertions and deletions" if variants["indels"] else ""
        what = "; ".join([f"{variants['rows']:,} substitutions{kept}", samples, *others])
        rows.append((f"variants {name}", what + _elsewhere(variants["skipped"])))
    rows += _label_rows(found["labels"]) if found["labels"] else []
    for name, report in found["homology"].items():
        rows.append((f"split {name}", homology(report)))
    if found["unused"]:
        rows.append(("unused", f"{show.few(found['unused'])}; distgen build RECIPE --prune removes them"))
    for name, source in found["sources"].items():
        version = next((f"{key} {source[key]}" for key in ("blake3", "etag", "modified") if key in source), "")
        rows.append((f"source {name.rsplit('/', 1)[-1]}", f"{source['bytes']:,} bytes, {version}"))
    show.table(f"{found['assembly']} ({found['store']})", rows)


def _label_rows(labels: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [("labels", f"{labels['kind']}: {show.few(labels['names'])}; {labels['missing']:,} missing")]
    if labels["repeated"] is not None:
        rows.append(("names", f'row numbers, since "{labels["repeated"]}" comes twice'))
    for name, parts in labels["splits"].items():
        for part, found in parts.items():
            classes = ", ".join(f"{label} {count:,}" for label, count in list(found.get("classes", {}).items())[:6])
            rows.append((f"split {name}/{part}", f"{found['sequences']:,} sequences{f' ({classes})' * bool(classes)}"))
    return rows


def _say_windows(run: Path, json_: bool) -> None:
    from distgen.report.windows import describe, tables
    from distgen.train.run import Run

    parsed = Run.find(run)
    store = parsed.open_store()
    found = describe(parsed, store, parsed.loaders(store))
    if json_:
        typer.echo(json.dumps(found))
        return
    title = f"{found['run']} ({run}): "
    for about, rows in tables(found):
        show.table(f"{title}{about}", rows)
        title = ""  # of the run, which the first is about


def _say_families(json_: bool) -> None:
    from distgen.report.windows import families

    found = families()
    if json_:
        typer.echo(json.dumps(found))
        return
    rows = []
    for model in found["families"]:
        sees = model["receptive_field"]
        field = "the whole window" if sees is None else f"{sees:,} bases"
        rows.append((model["family"], f"{model['parameters']:,} parameters; receptive field of a position: {field}"))
    show.table(f"families with the sizes they have by default, one answer for {found['window']:,} bases", rows)


def _say_leakage(store: str, split: str, json_: bool) -> None:
    from distgen.store.homology.leaks import leaks
    from distgen.store.reader import open_store

    found = leaks(open_store(store), split)
    if json_:
        typer.echo(json.dumps(found))
        return
    rows = []
    for pair in found["pairs"]:
        how = (
            f"{pair['bases']:,} bases"
            if "bases" in pair
            else f"{len(pair['exact']):,} stand there, {len(pair['similar']):,} more resemble one"
        )
        rows.append((f"{pair['part']} in {pair['other']}", f"{pair['share']:.2%}: {how}"))
    show.table(
        f"{store}, split {split}: what of a part resembles another, at an identity of {found['likeness']['identity']:g} or more",
        rows,
    )


def _say_leakage_against(store: str, split: str, other: str, json_: bool) -> None:
    from distgen.store.homology.leaks import leaks_against
    from distgen.store.reader import open_store

    found = leaks_against(open_store(store), open_store(other), split)
    if json_:
        typer.echo(json.dumps(found))
        return
    rows = []
    for part in found["parts"]:
        here = f"{part['share']:.2%} ({part['found']:,} {found['unit']})"
        there = f"{part['other_share']:.2%} of the other store ({part['other_found']:,} {found['other_unit']})"
        rows.append((part["part"], f"{here} and {there} resemble each other"))
    if found["short"]:
        rows.append(("not searched", f"{found['short']:,} sequences, too short; only the same ones are found"))
    identity = f"at an identity of {found['likeness']['identity']:g} or more"
    show.table(f"{store}, split {split}, against {other}, {identity}", rows)


def _say_collection(index: Path, json_: bool) -> None:
    from distgen.store.collection import describe, open_collection

    found = describe(open_collection(index))
    if json_:
        typer.echo(json.dumps(found))
        return
    stores = found["stores"]
    rows = [(key, f"{found[key]:,}") for key in ("bases", "contigs")] + [("stores", f"{len(stores):,}")]
    for name, store in sorted(stores.items(), key=lambda item: -item[1]["weight"])[:10]:
        rows.append(
            (f"store {name}", f"{store['weight']:.3%} of the samples; {store['bases']:,} bases; {store['path']}")
        )
    if len(stores) > 10:
        rows.append(("...", f"{len(stores) - 10:,} stores that are drawn from less"))
    show.table(f"{found['name']} ({found['collection']})", rows)


def _elsewhere(skipped: dict[str, int]) -> str:
    return (
        f"; {sum(skipped.values()):,} records on contigs that are not here: {show.few(list(skipped))}"
        if skipped
        else ""
    )


def _letters(of_contigs: Iterable[dict[str, int]]) -> str:
    """What the letters other than A, C, G and T became."""
    total = sum((Counter(counts) for counts in of_contigs), Counter[str]())
    uracil = total.pop("U", 0)
    said = [", ".join(f"{letter} {count:,}" for letter, count in total.most_common()) + " kept as N"] * bool(total)
    return "; ".join(said + [f"U {uracil:,} as T"] * bool(uracil))
