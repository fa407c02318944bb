"""`motifs`: what the filters of a trained model's first layer look for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from distgen.cli import show
from distgen.cli.app import Json, Trained, app, local


@app.command()
def motifs(
    checkpoint: Trained,
    out: Annotated[Path, typer.Option(help="A MEME file.", show_default=False, parser=local, metavar="FILE")],
    split: Annotated[str, typer.Option(help="Whose windows are read: train, valid or test.")] = "train",
    sites: Annotated[int, typer.Option(min=1, help="Count at most so many sites of a filter, the best.")] = 1000,
    known: Annotated[
        Path | None,
        typer.Option(
            "--compare",
            help="Motifs in MEME or JASPAR format: say which is most alike (Tomtom).",
            show_default=False,
            parser=local,
            metavar="KNOWN",
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Write the motifs that a trained model's first layer looks for."""
    from distgen.evaluate.filters import find_motifs
    from distgen.evaluate.meme import read_motifs, write_meme
    from distgen.evaluate.similarity import compare
    from distgen.train.evaluation import open_trained
    from distgen.train.run import named_part

    targets = read_motifs(known)[0] if known else []
    trained = open_trained(checkpoint)
    part = named_part(split)
    loader = trained.run.loader(trained.store, trained.objective, part, device=trained.device)
    found, background_4 = find_motifs(trained.model, trained.objective.inputs, loader, sites)
    write_meme(out, found, background_4)
    rows: list[dict[str, Any]] = []
    for motif in found:
        row = {"name": motif.name, "sites": motif.sites, "bits": motif.bits, "consensus": motif.consensus}
        if targets:
            match = compare(motif, targets)
            row |= {"match": match.target, "p": match.p, "e": match.e, "offset": match.offset}
            row |= {"overlap": match.overlap, "reverse": match.reverse}
        rows.append(row)
    if json_:
        typer.echo(json.dumps({"split": split, **trained.said, "motifs": rows}))
        return
    rows.sort(key=lambda row: row.get("p", -row["bits"]))
    show.table(f"{out}: {len(rows)} motifs", [(row["name"], _said(row)) for row in rows])


def _said(row: dict[str, Any]) -> str:
    found = f"{row['consensus']}  {row['bits']:4.1f} bits  {row['sites']:,} sites"
    return f"{found}  {row['match']} p {row['p']:.1e}" if "match" in row else found
