from distgen.config import Recipe, read
from distgen.report.windows import describe, homology, rows
from distgen.store.build import build
from distgen.store.reader import open_store
from distgen.store.webdataset import export
from distgen.train.run import Run
from tests.conftest import RUN

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
