"""The command line as a user meets it: exit status, one clear line, nothing half-written."""

import json
import os
import subprocess
import sys

import pytest

from distgen import __version__
from distgen.store.reader import open_store
from tests.conftest import RUN

EXAMPLE = {"small.fa", "small.gtf", "small.toml"}


def distgen(*arguments, cwd, expect=0, timeout=240, **env):
    """Run the command; returns standard output, or standard error where it is to fail."""
    done = subprocess.run(
        [sys.executable, "-m", "distgen.cli", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | {"DISTGEN_DATA": ""} | env,
        check=False,
    )
    assert done.returncode == expect, done.stderr
    return done.stderr if expect else done.stdout


def test_build_info_verify(small_recipe, tmp_path):
    assert "1,764 bases in" in distgen("build", "small.toml", "--out", "a.zarr", cwd=tmp_path)
    assert "up to date" in distgen("build", "small.toml", "--out", "a.zarr", cwd=tmp_path)
    shown = distgen("info", "a.zarr", cwd=tmp_path)
    for part in ("bases ", "1,764", "chr2 (900)", "cds+, cds-", "test 232", "train 1,332"):
        assert part in shown
    assert json.loads(distgen("info", "a.zarr", "--json", cwd=tmp_path))["bases"] == 1764
    assert "whole (" in distgen("verify", "a.zarr", cwd=tmp_path)
    shard = tmp_path / "a.zarr/sequence/c/0"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    message = distgen("verify", "a.zarr", cwd=tmp_path, expect=1)
    assert message.startswith("error: a.zarr/sequence/c/0 is damaged")
    assert message.count("\n") == 1


def test_a_dry_run_says_what_it_would_take_and_writes_nothing(small_recipe, tmp_path):
    shown = distgen("build", "small.toml", "--out", "a.zarr", "--dry-run", cwd=tmp_path)
    for part in (
        "bases        about 1,769",
        "planes       at most",
        "track genes  at most",
        "in a.zarr",
        "memory       at most",
    ):
        assert part in shown
    found = json.loads(distgen("build", "small.toml", "--dry-run", "--json", "--workers", 2, cwd=tmp_path))
    assert [part["name"] for part in found["parts"]] == ["planes", "track genes"]
    assert (found["bases"], found["workers"]) == (1769, 2)
    assert {p.name for p in tmp_path.iterdir()} == EXAMPLE


def test_a_damaged_store_is_mended_and_compared_with_its_sources(small_recipe, tmp_path):
    distgen("build", "small.toml", "--out", "a.zarr", cwd=tmp_path)
    (tmp_path / "a.zarr/softmask/c/0").unlink()
    assert "softmask/c/0 is damaged" in distgen("verify", "a.zarr", cwd=tmp_path, expect=1)
    assert "a.zarr: whole, 1 mended" in distgen("repair", "small.toml", "--out", "a.zarr", cwd=tmp_path)
    assert "and what its sources say" in distgen("verify", "a.zarr", "--deep", "small.toml", cwd=tmp_path)


def test_what_an_earlier_recipe_used_is_removed_when_asked(small_recipe, tmp_path):
    distgen("build", "small.toml", "--out", "a.zarr", cwd=tmp_path)
    small_recipe.write_text(small_recipe.read_text().replace('["cds+", "cds-"]', '["cds+", "cds-", "exon"]'))
    distgen("build", "small.toml", "--out", "a.zarr", cwd=tmp_path)
    assert len(list((tmp_path / "a.zarr/tracks").glob("genes.*"))) == 2
    assert "--prune removes them" in distgen("info", "a.zarr", cwd=tmp_path)
    assert ": removed" in distgen("build", "small.toml", "--out", "a.zarr", "--prune", cwd=tmp_path)
    assert len(list((tmp_path / "a.zarr/tracks").glob("genes.*"))) == 1
    assert "whole" in distgen("verify", "a.zarr", cwd=tmp_path)


def test_ray_workers_build_several_stores_at_once_and_what_fails_stops_no_other(small_recipe, tmp_path):
    (tmp_path / "recipes").mkdir()
    for name in ("one", "two", "bad"):
        text = small_recipe.read_text().replace('"small"', f'"{name}"').replace('"small.', '"../small.')
        (tmp_path / f"recipes/{name}.toml").write_text(text.replace("cds-", "cdz-") if name == "bad" else text)
    recipes = [f"recipes/{name}.toml" for name in ("bad", "one", "two")]
    message = distgen("build", *recipes, "--workers", "2", cwd=tmp_path, expect=2)
    assert 'no feature is a "cdz"' in message
    distgen("build", "recipes/one.toml", "--out", "alone.zarr", cwd=tmp_path)
    alone = (tmp_path / "alone.zarr/manifest").read_bytes()
    assert (tmp_path / "store/one.zarr/manifest").read_bytes() == alone
    assert (tmp_path / "store/two.zarr/manifest").exists()
    assert not (tmp_path / "store/bad.zarr").exists()


def test_ray_workers_export_the_same_shards(small, tmp_path):
    options = ["--window", 64, "--shard-bytes", 8000, "--tracks", "genes"]
    shown = distgen("export", small.path, "--out", "alone", *options, cwd=tmp_path)
    assert distgen(
        "export", small.path.name, "--out", "spread", *options, "--workers", 2, cwd=tmp_path
    ) == shown.replace("alone", "spread")
    files = {path.name: path.read_bytes() for path in (tmp_path / "alone").iterdir()}
    assert len(files) > 3
    assert {path.name: path.read_bytes() for path in (tmp_path / "spread").iterdir()} == files


def test_fewer_workers_than_none_are_refused(small_recipe, tmp_path):
    assert "greater than or equal to 0" in distgen("build", "small.toml", "--workers", -1, cwd=tmp_path, expect=2)


@pytest.mark.parametrize(("folder", "store"), [("recipes", "store/small.zarr"), ("project", "project/small.zarr")])
def test_a_store_goes_beside_the_folder_of_recipes_or_else_beside_its_recipe(small_recipe, tmp_path, folder, store):
    (tmp_path / folder).mkdir()
    for name in EXAMPLE:
        (tmp_path / name).rename(tmp_path / folder / name)
    distgen("build", f"{folder}/small.toml", cwd=tmp_path)
    assert open_store(tmp_path / store).name == "small"


def test_help_says_every_default_and_how_to_debug(tmp_path):
    assert "[default: NAME.zarr beside the recipe;" in " ".join(distgen("build", "--help", cwd=tmp_path).split())
    assert "[default: runs/NAME]" in " ".join(distgen("train", "--help", cwd=tmp_path).split())
    assert "--debug" in distgen("--help", cwd=tmp_path)
    assert distgen("--version", cwd=tmp_path) == f"distgen {__version__}\n"


def test_a_tilde_is_the_home_folder_wherever_a_path_is_asked_for(run_file, tmp_path):
    home = {"HOME": str(tmp_path), "cwd": tmp_path / "elsewhere"}
    home["cwd"].mkdir()
    distgen("build", "~/small.toml", "--out=~/a.zarr", **home)
    assert "whole" in distgen("verify", "~/a.zarr", "--deep=~/small.toml", **home)
    assert "whole" in distgen("repair", "~/small.toml", "--out=~/a.zarr", **home)
    assert "1,764" in distgen("info", "~/a.zarr", **home)
    assert "windows" in distgen("export", "~/a.zarr", "--out=~/tars", "--window", 64, **home)
    assert "runs" in distgen("train", "~/tiny.toml", "train.steps=1", "--out=~/runs/a", **home)
    assert "loss" in distgen("evaluate", "~/runs/a", **home)
    assert not list(home["cwd"].iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        ("build", "s3://bucket/small.toml"),
        ("repair", "s3://bucket/small.toml"),
        ("verify", "small.zarr", "--deep", "s3://bucket/small.toml"),
        ("train", "s3://bucket/tiny.toml"),
        ("train", "tiny.toml", "--out", "s3://bucket/run"),
        ("evaluate", "s3://bucket/run"),
    ],
)
def test_a_uri_is_refused_where_only_a_path_can_stand(tmp_path, arguments):
    said = distgen(*arguments, cwd=tmp_path, expect=2)
    assert "is a URI, and only a path on this machine can stand here" in said


def test_a_run_says_where_its_store_can_lie(run_file, tmp_path):
    said = distgen("train", "tiny.toml", "data.store=ftp://user:secret@host/small.zarr", cwd=tmp_path, expect=2)
    assert "data.store: ftp://host/small.zarr: a store can lie in s3://, gs://, az:// or in a folder" in said


def test_what_is_left_out_of_a_store_is_said(tmp_path):
    (tmp_path / "a.fa").write_text(">chr1\nACGTNNRU\n>chr1_alt\nACGT\n>s2_fix\nAC\n>phage\nAC\n")
    (tmp_path / "a.bed").write_text("chr1\t0\t3\nchrX\t0\t3\nchrX\t4\t6\n")
    (tmp_path / "a.toml").write_text(
        'format = 1\n[assembly]\nname = "a"\nfasta = "a.fa"\n[contigs]\nexclude = ["phage"]\n'
        '[[track]]\nname = "peaks"\nsource = "a.bed"\n'
    )
    sentence = "2 alternative, patch or decoy and 1 by the rules of [contigs] (chr1_alt, s2_fix, phage)"
    assert f"contigs left out: {sentence}\n" in distgen("build", "a.toml", cwd=tmp_path)
    shown = distgen("info", "a.zarr", cwd=tmp_path)
    assert f"left out       {sentence}\n" in shown
    assert "letters        N 2, R 1 kept as N; U 1 as T\n" in shown
    assert "8 bins of 1 bp; 2 records on contigs that are not here: chrX" in shown
    found = json.loads(distgen("info", "a.zarr", "--json", cwd=tmp_path))
    assert found["left_out"] == {"contigs": 3, "alternative": 2, "first": ["chr1_alt", "s2_fix", "phage"]}
    assert found["tracks"]["peaks"]["skipped"] == {"chrX": 2}
    (tmp_path / "a.toml").write_text((tmp_path / "a.toml").read_text() + "bin_bp = 2\n")
    assert sentence in distgen("build", "a.toml", cwd=tmp_path)  # the planes are not read again


def test_a_collection_has_no_leakage(small, tmp_path):
    (tmp_path / "all.toml").write_text('format = 1\n[collection]\nname = "all"\nstores = "*.zarr"\n')
    distgen("build", "all.toml", cwd=tmp_path)
    (index,) = tmp_path.glob("all.coll*")
    assert "is a collection, which has no splits" in distgen("info", index, "--leakage", "x", cwd=tmp_path, expect=2)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[contigs]", "[contig]", 'small.toml:5: contig: there is no key "contig" here. Did you mean "contigs"'),
        ("format = 1", "format = 2", 'small.toml:1: format: "2" is none of the choices. Valid: 1.'),
        ('name = "small"', "name = 3", "small.toml:3: assembly.name: input should be a valid string, not 3"),
        ("small.fa", "small.fasta", "small.toml:4: assembly.fasta: there is no file"),
        ('"chr3"', '"chr4"', 'small.toml:13: split.test: no contig matches "chr4"'),
    ],
)
def test_a_wrong_recipe_ends_with_2_one_line_and_nothing_written(small_recipe, tmp_path, old, new, message):
    small_recipe.write_text(small_recipe.read_text().replace(old, new))
    shown = distgen("build", "small.toml", "--out", "a.zarr", cwd=tmp_path, expect=2)
    assert shown.startswith("error: recipe ")
    assert message in shown
    assert shown.count("\n") == 1
    assert {p.name for p in tmp_path.iterdir()} - {".a.zarr.building"} == EXAMPLE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.jiter=3", 'data.jiter: there is no key "jiter" here. Did you mean "jitter"'),
        ("data.store=nowhere.zarr", "data.store: store "),
        ("data.batch_size=100000", "data.batch_size: 100000 is more than"),
        ("data.split=fold9", 'has no split "fold9"'),
        ("data.jitter=12", 'data.jitter: 12 is no multiple of track "genes" with bin_bp 8. Use 8 or 16.'),
        ("objective.track=gene", 'has no track "gene". Did you mean "genes"'),
    ],
)
def test_a_wrong_run_ends_with_2_one_line_and_nothing_written(small, small_recipe, tmp_path, change, message):
    text = RUN.format(store=small.path)
    if "jitter" in change or "track" in change:
        small_recipe.write_text(small_recipe.read_text().replace('name = "genes"', 'name = "genes"\nbin_bp = 8'))
        distgen("build", "small.toml", "--out", small.path, cwd=tmp_path)
        text = text.replace('kind = "masked_lm"', 'kind = "base_classes"\ntrack = "genes"').replace(
            "jitter = 5", "jitter = 8"
        )
        text = text.replace("window = 64", "window = 64\ntarget_length = 64")
    (tmp_path / "run.toml").write_text(text)
    before = {p.name for p in tmp_path.iterdir()}
    shown = distgen("train", "run.toml", change, cwd=tmp_path, expect=2)
    assert shown.startswith("error: ")
    assert message in shown
    assert shown.count("\n") == 1
    assert {p.name for p in tmp_path.iterdir()} == before


def test_train_resume_evaluate(run_file, tmp_path):
    shown = distgen("train", "tiny.toml", cwd=tmp_path)
    assert "step 12/12" in shown
    for line in (
        "checkpoint  runs/tiny/checkpoints/best",
        "metrics     runs/tiny/metrics.jsonl",
        "report      runs/tiny/report.html",
    ):
        assert line in shown
    assert "runs/tiny exists. Give --resume" in distgen("train", "tiny.toml", cwd=tmp_path, expect=2)
    assert "step 16/16" in distgen("train", "tiny.toml", "train.steps=16", "--resume", cwd=tmp_path)
    found = json.loads(distgen("evaluate", "runs/tiny", "--json", cwd=tmp_path))
    assert found["split"] == "test"
    assert set(found["metrics"]) == {"loss", "bits_per_base", "accuracy"}
    assert "markov order 11" in found["baselines"]
    one = json.loads(
        distgen("evaluate", "runs/tiny/checkpoints/step-00000012", "--split", "valid", "--json", cwd=tmp_path)
    )
    assert (one["split"], one["step"]) == ("valid", 12)
    table = distgen("evaluate", "runs/tiny", cwd=tmp_path)
    assert "bits_per_base, markov order 8" in table
    assert "Evaluation on valid" in (tmp_path / "runs/tiny/report.html").read_text()


def test_the_samples_of_any_step_are_told_without_training(run_file, tmp_path):
    def told(step, *more):
        return json.loads(distgen("samples", "tiny.toml", "--step", step, "--json", *more, cwd=tmp_path))

    first, later = told(1), told(10_000)
    assert (first["step"], first["epoch"]) == (1, 0)
    assert later["epoch"] > 0
    sizes = {(row["end"] - row["start"], row["strand"] in "+-") for found in (first, later) for row in found["samples"]}
    assert len(sizes) == 1
    lines = distgen("samples", "tiny.toml", "--step", 1, cwd=tmp_path).splitlines()
    assert [line.split("\t") for line in lines] == [[str(v) for v in row.values()] for row in first["samples"]]


def test_the_windows_of_a_run_are_told_without_training(run_file, tmp_path):
    shown = distgen("info", "--windows", "tiny.toml", cwd=tmp_path)
    assert shown.startswith(f"tiny (tiny.toml): windows of {tmp_path / 'small.zarr'}, split default\n")
    assert [line.split()[0] for line in shown.splitlines()[1:]] == [
        "model",
        "train",
        "valid",
        "test",
        "shared",
        "similar",
    ]
    (tmp_path / "out").mkdir()
    (tmp_path / "out/run.toml").write_text(run_file.read_text())
    found = json.loads(distgen("info", "--windows", "out", "--json", cwd=tmp_path))
    assert found["parts"]["train"]["stages"][0]["windows"] == 40
    assert [overlap["bases"] for overlap in found["overlaps"]] == [0] * 6


@pytest.mark.parametrize("arguments", [[], ["a.zarr", "--windows", "tiny.toml"]])
def test_info_takes_a_store_or_a_run(tmp_path, arguments):
    message = distgen("info", *arguments, cwd=tmp_path, expect=2)
    assert message == "error: give either a store, or --windows with a run file or a run directory, or --families\n"


def test_a_refused_resume_leaves_the_run_as_it_was(run_file, tmp_path):
    distgen("train", "tiny.toml", "train.steps=2", cwd=tmp_path)
    before = (tmp_path / "runs/tiny/run.toml").read_text()
    message = distgen("train", "tiny.toml", "model.channels=16", "--resume", cwd=tmp_path, expect=1)
    assert "belongs to another run" in message
    assert "What differs: model.channels 8, now 16. Leave it as it was, or give another --out" in message
    assert message.count("\n") == 1
    assert (tmp_path / "runs/tiny/run.toml").read_text() == before


def test_an_out_that_is_a_file_is_refused(run_file, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert "file exists" in distgen("train", "tiny.toml", "--out", "file", cwd=tmp_path, expect=2)


def test_losing_to_a_baseline_is_said(run_file, tmp_path):
    distgen("train", "tiny.toml", "train.steps=1", "optimizer.lr=1e-9", cwd=tmp_path)
    assert "The network loses to the baseline" in distgen("evaluate", "runs/tiny", cwd=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "nowhere"], "nowhere is no run directory"),
        (["evaluate", ".", "--split", "tset"], 'there is no part "tset" of a split. Did you mean "test"'),
        (["info", "nowhere.zarr"], "store nowhere.zarr does not exist"),
        (["schema", "runs"], 'there is no schema "runs". Did you mean "run"'),
    ],
)
def test_what_is_not_there_is_named(tmp_path, arguments, message):
    done = subprocess.run(
        [sys.executable, "-m", "distgen.cli", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert message in done.stderr


def test_schemas_are_json(tmp_path):
    for kind in ("recipe", "run"):
        assert "properties" in json.loads(distgen("schema", kind, cwd=tmp_path))


def test_imports_cost_nothing_heavy():
    heavy = "{'torch', 'ray', 'zarr', 'numba', 'pydantic', 'polars', 'numpy'}"
    for statement in ("import distgen", "import distgen.cli"):
        code = f"import sys; {statement}; loaded = {heavy} & set(sys.modules); assert not loaded, loaded"
        subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_come_without_ray():
    code = "import sys, distgen; distgen.open_store, distgen.GenomeLoader, distgen.kernels.tokens, distgen.kernels.one_hot; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_info_says_what_another_store_knows_of_a_split(small_recipe, tmp_path):
    distgen("build", "small.toml", "--out", "a.zarr", cwd=tmp_path)
    rows = "".join(f"{text},1\n" for text in ("ACGT" * 30, "TTTTACGATCGAT" * 9, "ACGTT"))
    (tmp_path / "t.csv").write_text("sequence,label\n" + rows)
    (tmp_path / "t.toml").write_text(
        'format = 1\n[sequences]\nname = "t"\nkind = "regression"\ntable = "t.csv"\n[split]\ntest = ["1"]\n'
        "[splits.drawn]\nfolds = 3\nhomology = {}\n"
    )
    distgen("build", "t.toml", "--out", "t.zarr", cwd=tmp_path)
    assert "3 families of sequences, each in one part (the largest: 1)" in distgen("info", "t.zarr", cwd=tmp_path)
    shown = distgen("info", "t.zarr", "--leakage", "default", "--against", "a.zarr", cwd=tmp_path)
    assert "t.zarr, split default, against a.zarr" in shown
    assert "test          0.00% (0 sequences) and 0.00% of the other store (0 bases) resemble each other" in shown
    assert "not searched  1 sequences, too short" in shown
    shown = distgen("info", "a.zarr", "--leakage", "default", "--against", "t.zarr", "--json", cwd=tmp_path)
    assert [part["other_total"] for part in json.loads(shown)["parts"]] == [3, 3, 3]
    message = distgen("info", "t.zarr", "--against", "a.zarr", cwd=tmp_path, expect=2)
    assert message == "error: --against needs a split of the first store: add --leakage SPLIT\n"
