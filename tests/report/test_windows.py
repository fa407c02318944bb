import numpy as np

from distgen.config import Recipe, read
from distgen.models import parameter_count
from distgen.report import windows
from distgen.report.windows import describe, homology, rows, tables
from distgen.store.build import build
from distgen.store.reader import open_store
from distgen.store.webdataset import export
from distgen.train.model import build_model, schema_of
from distgen.train.run import Run
from tests.conftest import RUN
from tests.store.conftest import index_of, tiny_store

POOLS = """[[data.pool]]
name = "peaks"
source = "peaks.bed"
[[data.pool]]
name = "rest"
"""


def described(run_file, store, *overrides):
    run = Run.read(run_file, list(overrides))
    return describe(run, store, run.loaders(store))


def exported(run_file):
    """The same of the export `out`, which stands for the store."""
    run = Run.read(run_file, ["data.jitter=0", "data.stride=64", "data.store=out"])
    return describe(run, run.open_store(), run.loaders(run.open_store()))


def test_every_part_has_a_line_and_what_leaks_another(small, run_file):
    said = dict(rows(described(run_file, small, "data.max_ambiguous=0.3", "data.strand=both")))
    parts = ["train", "train, left out", "valid", "valid, left out", "test", "test, left out"]
    assert list(said) == [*parts, "shared bases", "similar sequence"]
    lengths = "5 windows of 64 bases, one every 32; an epoch is 10 samples in 1 batch of 8; "
    assert said["train"] == f"{lengths}0.00% reads as N; targets cover 192 of 1,332 bases (14.4%)"
    assert said["train, left out"] == "35 with too much N"
    assert said["valid"].startswith("3 windows of 64 bases; an epoch is 1 batch of 8; ")
    assert said["shared bases"] == "0: no window reads a base of another part"
    assert said["similar sequence"] == f"distgen info {small.path} --leakage default looks for it"


def test_pools_and_stages_have_lines_of_their_own_and_a_part_without_windows_says_why(small, run_file):
    (run_file.parent / "peaks.bed").write_text("chr1\t100\t200\nchr1\t300\t310\n")
    curriculum = "[[data.curriculum]]\nepochs = 1\nwindow = 8\n[[data.curriculum]]\nepochs = 3\nwindow = 16\n"
    run_file.write_text(run_file.read_text().replace("[model]", f"{POOLS}{curriculum}[model]"))
    said = dict(rows(described(run_file, small, "data.batch_size=2", "data.jitter=0")))
    stages = ["train, epoch 0", "train, epochs 1-3", "train, epochs 4-"]
    assert [name for name in said if name.startswith("train")] == [
        name for stage in stages for name in (stage, f"{stage}, peaks", f"{stage}, rest")
    ]
    assert said["train, epochs 4-, peaks"].startswith("50.00% of samples, from 2 windows; ")
    assert said["valid"].endswith("no window is left: 2 outside the part")


def test_of_an_export_all_is_said_but_how_much_n_only_shards_hold(small, run_file):
    export(small, run_file.parent / "out", window=64)
    store, tars = described(run_file, small, "data.jitter=0", "data.stride=64"), exported(run_file)
    assert dict(rows(store))["similar sequence"] == f"distgen info {small.path} --leakage default looks for it"
    assert dict(rows(tars))["similar sequence"] == "distgen info STORE --leakage default looks for it"
    for part, entry in tars["parts"].items():
        (stage,), (own,) = entry["stages"], store["parts"][part]["stages"]
        known = [found | {"ambiguous": None} for found in (own, own["pools"][""])]
        assert [stage, stage["pools"][""]] == [known[0] | {"pools": {"": known[1]}}, known[1]]
    assert dict(rows(tars))["train"] == (
        "22 windows of 64 bases; an epoch is 2 batches of 8; 5.40% lies outside the part and reads as N, "
        "how much else does is not in the index; targets cover 1,332 of 1,332 bases (100.0%)"
    )


def test_of_an_export_without_n_all_is_said(small_recipe, run_file):
    (small_recipe.parent / "small.fa").write_text(
        ">chr1\n" + "ACGT" * 300 + "\n>chr2\n" + "GATTACA" * 140 + "\n>chr3\nAC\n>chrM\nA\n"
    )
    build(read(small_recipe, Recipe), small_recipe.parent / "plain.zarr")
    plain = open_store(small_recipe.parent / "plain.zarr")
    export(plain, run_file.parent / "out", window=64)
    run_file.write_text(run_file.read_text().replace("small.zarr", "plain.zarr"))
    store = described(run_file, plain, "data.jitter=0", "data.stride=64")
    assert exported(run_file)["parts"] == store["parts"]
    assert store["parts"]["test"]["stages"][0]["ambiguous"] == store["parts"]["test"]["stages"][0]["outside"] > 0


def test_what_a_build_took_apart_is_said(small_recipe, tmp_path):
    recipe = small_recipe.read_text() + "homology = {}\n"
    small_recipe.write_text(recipe)
    build(read(small_recipe, Recipe), tmp_path / "small.zarr")
    store = open_store(tmp_path / "small.zarr")
    (tmp_path / "tiny.toml").write_text(RUN.format(store=store.path))
    found = described(tmp_path / "tiny.toml", store)
    said = dict(rows(found))["similar sequence"]
    assert said.startswith("without what resembles a held-out part: ")
    assert said.startswith(homology(found["homology"]))


def test_labels_are_counted_in_words_and_those_of_other_parts_are_not_missed():
    labels = {"kind": "classes", "classes": {f"c{n}": 1000 + n for n in range(10)}, "missing": 2}
    pool = {
        "windows": 9,
        "samples": 9,
        "left_out": {"outside": 7},
        "ambiguous": 0.0,
        "outside": 0.0,
        "covered": 1,
        "labels": labels,
    }
    stage = {"window": 8, "target_length": 6, "stride": 6, "samples": 9, "rows": 9, "windows": 9, "batches": 3}
    stage |= {"first_epoch": 0, "ambiguous": 0.125, "outside": 0.0, "covered": 30, "pools": {"": pool}}
    found = {"parts": {"train": {"bases": 40, "stages": [stage]}}, "batch_size": 3, "homology": None, "search": "X"}
    overlaps = [{"part": "valid", "other": "train", "bases": 1200}, {"part": "train", "other": "valid", "bases": 0}]
    assert rows(found | {"overlaps": overlaps}) == [
        (
            "train",
            "9 windows of 8 bases, 6 of them target; an epoch is 3 batches of 3; 12.50% reads as N; "
            "targets cover 30 of 40 bases (75.0%)",
        ),
        (
            "train, labels",
            "c0 1,000, c1 1,001, c2 1,002, c3 1,003, c4 1,004, c5 1,005, c6 1,006, c7 1,007, ... (10 in all); 2 missing",
        ),
        ("shared bases", "valid reads 1,200 bases of train"),
        ("similar sequence", "X looks for it"),
    ]


def collected(folder, *overrides):
    """What is found of a run on genomes of 600, 900 and 1,200 random bases, of which the second validates on 200."""
    (folder / "stores").mkdir()
    random = np.random.default_rng(1)
    for number in range(3):
        name = f"g{number}"
        tiny_store(folder, name, "".join(random.choice(list("ACGT"), 600 + 300 * number)))
        recipe = folder / f"{name}.toml"
        if number == 1:
            recipe.write_text(recipe.read_text() + f'[split]\nvalid = ["{name}-1:0-200"]\nhomology = {{}}\n')
            build(read(recipe, Recipe), folder / "stores" / f"{name}.zarr")
    (folder / "tiny.toml").write_text(RUN.format(store=index_of(folder)))
    run = Run.read(folder / "tiny.toml", ["data.stride=64", *overrides])
    store = run.open_store()
    return describe(run, store, run.loaders(store))


def test_of_a_collection_all_stores_together_come_first_and_then_those_that_serve_most(tmp_path, monkeypatch):
    found = collected(tmp_path)
    (title, together), *stores = tables(found)
    assert title == f"windows of {tmp_path / 'all.collection'}, split default"
    said = dict(together)
    assert list(said) == ["model", "train", "valid", "shared bases", "similar sequence", "stores"]
    assert said["train"].startswith("43 windows of 64 bases, in 3 stores; an epoch is 4 batches of 8; ")
    assert said["train"].endswith("; targets cover 2,512 of 2,512 bases (100.0%)")
    assert said["valid"].startswith("4 windows of 64 bases, in 1 store; an epoch is 1 batch of 8; 21.88% reads as N; ")
    assert said["similar sequence"] == (
        "1 of 3 stores: without what resembles a held-out part; "
        "distgen info STORE --leakage default [--against OTHER] looks for it"
    )
    assert said["stores"] == "3"
    assert [name for name, _ in stores] == ["store g2", "store g1", "store g0"]
    own = dict(stores[1][1])
    assert list(own) == ["batches", "train", "valid", "shared bases", "similar sequence"]
    assert (
        own["batches"]
        == "train 1 of 4 of the first epoch, 33.33% of all; valid 1 of 1 of the first epoch, 100.00% of all"
    )
    assert own["train"].startswith("12 windows of 64 bases; an epoch is 1 batch of 8; ")
    assert own["similar sequence"].startswith("without what resembles a held-out part: ")
    monkeypatch.setattr(windows, "_STORES", 2)
    (_, together), *stores = tables(found | {"members": 90})
    assert dict(together)["stores"] == (
        "90; 3 at equal distances are counted here; the 2 that serve most follow, --json has all"
    )
    assert [name for name, _ in stores] == ["store g2", "store g1"]


def test_an_epoch_of_a_mixture_is_told_from_one_of_each_store(tmp_path):
    found = collected(tmp_path, "data.epoch_batches=9", "data.strand=both")
    said = dict(rows(found))
    assert ", in 3 stores; an epoch is 9 batches of 8, one of each store 86 samples in 10 batches; " in said["train"]
    assert "; an epoch is 1 batch of 8; " in said["valid"]
    stage = found["parts"]["train"]["stages"][0] | {"window": None, "target_length": None, "stride": None}
    found["parts"]["train"]["stages"] = [stage]
    assert dict(rows(found))["train"].startswith("43 windows of several lengths, in 3 stores; ")


def test_the_model_is_said_with_what_an_output_sees(small, run_file):
    found = described(run_file, small)
    run = Run.read(run_file)
    model = build_model(run.model, schema_of(run.build_objective(small)))
    assert found["model"] == {"family": "dilated", "parameters": parameter_count(model), "receptive_field": 9}
    ((_, said),) = tables(found)
    assert dict(said)["model"] == f"dilated, {parameter_count(model)} parameters; an output sees 9 bases"
