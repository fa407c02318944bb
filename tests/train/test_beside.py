"""What is measured beside a model: on tables in which something is planted, and on small genomes."""

import json

import numpy as np
import pytest

from distgen.config import Pool, Recipe, read
from distgen.errors import ConfigError
from distgen.evaluate import beside
from distgen.evaluate.beside import windows
from distgen.evaluate.kmers import Sparse
from distgen.evaluate.leaks import leaked, words
from distgen.evaluate.logistic import Linear
from distgen.evaluate.metrics import Units
from distgen.store.build import build
from distgen.train import evaluation
from distgen.train.beside import Beside, Comparison, _same_on_both
from distgen.train.run import Run
from tests.conftest import ROOT, fit
from tests.evaluate.test_leaks import obvious
from tests.test_cli import distgen

MOTIF = "TGACTCATGC"
MATRIX = ">M1 planted\n" + "\n".join(" ".join("9" if base == letter else "0" for base in MOTIF) for letter in "ACGT")
RUN = """name = "planted"
[data]
store = "{store}"
batch_size = 64
strand = "{strand}"
[model]
family = "cnn"
channels = [8]
widths = [5]
pools = [4]
hidden = 8
[objective]
kind = "binary"
[train]
steps = 2
precision = "fp32"
threads = 1
valid_every = 2
[log]
gap_batches = 0
"""
SIZES = {"train": 600, "valid": 150, "test": 150}


def other(text):
    return text.translate(str.maketrans("ACGT", "TGCA"))[::-1]


def planted(folder, strand="random", parts=("train", "valid", "test")):
    """A table in which a yes holds a motif on one of both strands, with leaks; and a run of two steps on it."""
    rng = np.random.default_rng(0)
    table = {}
    for part in parts:
        rows = []
        for number in range(SIZES[part]):
            text = "".join(rng.choice(list("ACGT"), 60))
            if number % 2 and rng.random() < 0.8:  # a fifth of the yes cannot be found
                at = int(rng.integers(0, 60 - len(MOTIF)))
                text = text[:at] + (MOTIF if rng.random() < 0.5 else other(MOTIF)) + text[at + len(MOTIF) :]
            rows.append((text, number % 2))
        table[part] = rows
    for number in range(0, 30, 2):  # of the negatives, shared by 31 bases, or by one less, on either strand
        text = table["train"][number][0][10 : 41 - (number % 4 == 0)]
        table["test"][number] = (((text if number % 3 else other(text)) + table["test"][number][0])[:60], 0)
    for part, rows in table.items():
        lines = [f"{text},{label}" for text, label in rows]
        (folder / f"{part}.csv").write_text("\n".join(["sequence,label", *lines]) + "\n")
    files = "\n".join(f'{part} = "{part}.csv"' for part in parts)
    (folder / "t.toml").write_text(
        f'format = 1\n[sequences]\nname = "t"\n{files}\nsequence = "sequence"\nlabel = "label"\nkind = "binary"\n'
    )
    build(read(folder / "t.toml", Recipe), folder / "t.zarr")
    text = RUN.format(store=folder / "t.zarr", strand=strand)
    (folder / "run.toml").write_text(text if "valid" in parts else text.replace("valid_every = 2\n", ""))
    (folder / "motifs.txt").write_text(MATRIX)
    run = Run.read(folder / "run.toml")
    fit(run, folder / "out")
    run.write(folder / "out/run.toml")
    return table


def codes(rows):
    return [["ACGT".index(base) for base in text] for text, _ in rows]


def test_a_planted_motif_is_found_and_leaks_are_counted_exactly(tmp_path):
    table = planted(tmp_path)
    asked = Beside(intervals=True, baseline=True, motifs=tmp_path / "motifs.txt", leak_k=31)
    _, found = evaluation.evaluate(tmp_path / "out", "test", beside=asked)
    expected = obvious(codes(table["test"]), codes(table["train"]), 31)
    less = found["without_leaks"]
    assert (less["k"], less["windows"], less["leaked"]) == (31, 150, sum(expected))
    assert sum(expected) >= 5
    words, scan = (found["baselines"][name] for name in ("k-mer logistic regression", "motif scan"))
    assert words["metrics"]["auroc"] > 0.8
    assert scan["metrics"]["auroc"] > 0.85
    assert set(words["metrics"]) == set(found["metrics"])
    assert (words["windows"], words["of"]) == (600, 600)
    for entry in (found, words, scan):
        for name, (low, high) in entry["intervals"].items():
            assert low <= entry["metrics"][name] <= high, name
    for name in ("auroc", "auprc", "mcc", "accuracy"):
        difference = scan["difference"][name]
        value = found["metrics"][name] - scan["metrics"][name]
        assert difference["value"] == pytest.approx(value, abs=1e-5)
        assert difference["low"] <= difference["high"] < 0
        assert scan["p"][name] == pytest.approx(2 / 1001)
    rest = less["baselines"]["k-mer logistic regression"]
    assert rest["metrics"]["auroc"] != words["metrics"]["auroc"]
    assert rest["difference"]["auroc"]["value"] == pytest.approx(
        less["metrics"]["auroc"] - rest["metrics"]["auroc"], abs=1e-5
    )
    assert json.loads(json.dumps(found)) == found


def test_drawn_windows_weigh_what_they_stand_for_in_both_parts(tmp_path, monkeypatch):
    planted(tmp_path)
    run = Run.read(tmp_path / "run.toml")
    store = run.open_store()
    objective = run.build_objective(store)
    seen = []

    def fitted(rows, answers, held_out):
        seen.append((answers, held_out))
        return Linear(np.zeros((rows.width, 1)), np.zeros(1), (1.0,))

    monkeypatch.setattr(beside, "fit", fitted)
    monkeypatch.setattr(beside, "_MOST", 5000)  # numbers: 500 of the 600 windows, and 125 of the 150
    train, valid = (run.loader(store, objective, part) for part in ("train", "valid"))
    features = beside.Features(lambda codes: Sparse.of((codes[:, :10] == 0).astype(float)), 10)
    beside.fit_rows(features, beside.Rows.of("binary", objective, train), train, valid, together=False)
    ((answers, held_out),) = seen
    for rows, count in ((~held_out, 600), (held_out, 150)):
        assert rows.sum() < count
        assert answers.weights[rows].sum() == pytest.approx(count, rel=0.1)


def test_a_column_that_changes_places_with_itself_is_the_same_on_both_strands():
    assert _same_on_both(())
    assert _same_on_both((("a", "a"), ("b", "b")))
    assert not _same_on_both((("a", "b"), ("b", "a")))
    assert not _same_on_both(None)


def test_scaled_features_are_penalised_alike(tmp_path):
    planted(tmp_path)
    run = Run.read(tmp_path / "run.toml")
    store = run.open_store()
    objective = run.build_objective(store)
    train = run.loader(store, objective, "train")
    rows = beside.Rows.of("binary", objective, train)
    counts = lambda codes: (codes[:, :, None] == np.arange(4)).sum(1).astype(float)  # noqa: E731
    plain, stretched = (
        beside.fit_rows(
            beside.Features(lambda codes, by=by: Sparse.of(counts(codes) * by), 4, scaled=True),
            rows, train, None, together=False,
        )
        for by in (np.ones(4), np.array([1, 100, 0.01, 3]))
    )  # fmt: skip
    assert stretched.linear.weights * np.array([1, 100, 0.01, 3])[:, None] == pytest.approx(
        plain.linear.weights, abs=1e-3
    )
    same = Sparse.of(np.full((5, 1), 7.0))
    assert same.deviations().tolist() == [1.0]


def test_units_are_kept_once(run_file, tmp_path):
    run = Run.read(run_file)
    store = run.open_store()
    objective = run.build_objective(store)
    loader = run.loader(store, objective, "train")
    units = Units(loader)
    comparison = Comparison(run, store, objective, "train", loader, Beside(intervals=True), units)
    assert comparison.keep == []
    assert comparison._units is units


def test_without_a_part_to_choose_on_some_of_the_training_part_does(tmp_path):
    planted(tmp_path, "forward", ("train", "test"))
    _, found = evaluation.evaluate(tmp_path / "out", "test", beside=Beside(baseline=True))
    words = found["baselines"]["k-mer logistic regression"]
    assert words["metrics"]["auroc"] > 0.75
    assert "without_leaks" not in found


def test_the_command_says_all_of_it(tmp_path):
    planted(tmp_path)
    shown = distgen("evaluate", "out", "--motifs", "motifs.txt", "--without-leaks", "--leak-k", "30", cwd=tmp_path)
    for line in ("auroc, motif scan  ", "auroc, above motif scan", "that share 30 bases", "auroc, without these"):
        assert line in shown
    assert "The network loses to the baseline motif scan: " in shown
    page = (tmp_path / "out/report.html").read_text()
    assert "<td>auroc, above motif scan</td>" in page
    message = distgen("evaluate", "out", "--without-leaks", "--leak-k", "61", cwd=tmp_path, expect=2)
    assert "--leak-k 61 is not between 8 and 31" in message
    message = distgen("evaluate", "out", "--leak-k", "16", cwd=tmp_path, expect=2)
    assert "--leak-k is how much windows share that --without-leaks leaves out" in message


def test_a_language_model_stands_beside_mixed_orders(run_file, tmp_path):
    run = Run.read(run_file, ["train.steps=1"])
    fit(run, tmp_path / "out")
    run.write(tmp_path / "out/run.toml")
    _, plain = evaluation.evaluate(tmp_path / "out", "train")
    assert plain["baselines"]["markov order 3"] == {
        "metrics": plain["baselines"]["markov order 3"]["metrics"],
    }
    _, found = evaluation.evaluate(tmp_path / "out", "train", beside=Beside(intervals=True, baseline=True))
    low, high = found["intervals"]["bits_per_base"]
    assert low <= found["metrics"]["bits_per_base"] <= high
    mixed = found["baselines"]["markov orders 0 to 16, mixed"]
    assert mixed["metrics"]["bits_per_base"] < found["baselines"]["markov order 0"]["metrics"]["bits_per_base"]
    difference = mixed["difference"]["bits_per_base"]
    assert 0 < difference["low"] <= difference["value"] <= difference["high"]
    assert mixed["p"]["bits_per_base"] < 0.05


def test_classes_along_the_genome_stand_beside_their_prevalence(run_file, tmp_path):
    classes = ["objective.kind=base_classes", "objective.track=genes", "train.steps=1"]
    run = Run.read(run_file, classes)
    fit(run, tmp_path / "out")
    run.write(tmp_path / "out/run.toml")
    _, found = evaluation.evaluate(tmp_path / "out", "train", beside=Beside(baseline=True))
    none, words = found["baselines"]["prevalence"], found["baselines"]["9 bases around"]
    assert none["metrics"]["auroc"]["cds-"] == 0.5
    assert words["metrics"]["auroc"]["cds-"] > 0.5
    assert words["metrics"]["loss"] < none["metrics"]["loss"] < found["metrics"]["loss"]
    assert none["difference"]["loss"]["value"] == pytest.approx(
        found["metrics"]["loss"] - none["metrics"]["loss"], abs=1e-5
    )


def test_leaks_are_looked_for_in_the_whole_training_part(run_file, tmp_path):
    """Pools say which windows an epoch draws, and a training sees those of many."""
    run = Run.read(run_file)
    store = run.open_store()
    start, end = max(store.regions("train", run.data.split).tolist(), key=lambda region: region[1] - region[0])
    row = int(store.contigs.locate(start))
    middle = (start + end) // 2 - int(store.contigs.offsets[row])
    (tmp_path / "one.bed").write_text(f"{store.contigs.names[row]}\t{middle}\t{middle + 10}\n")
    pool = {"pool": (Pool(name="one", source=str(tmp_path / "one.bed")),)}
    pooled = run.model_copy(update={"data": run.data.model_copy(update=pool)})
    objective = run.build_objective(store)
    loader = run.loader(store, objective, "train")
    expected = np.concatenate([sizes > 0 for codes in windows(loader) for _, sizes in [words(codes, 8)]])
    assert leaked(windows(loader), windows(pooled.loader(store, objective, "train")), 8).sum() < expected.sum()
    found = Comparison(pooled, store, objective, "train", loader, Beside(leak_k=8))._leaked
    assert found.tolist() == expected.tolist()


def test_stretches_have_each_word_whole_in_one_of_them(small, monkeypatch):
    monkeypatch.setattr(beside, "_STRETCH", 100)
    regions = small.contigs.whole()
    found = np.concatenate([words(codes, 16)[0] for codes in beside.stretches(small, regions, 16)])
    monkeypatch.setattr(beside, "_STRETCH", 1 << 20)
    whole = np.concatenate([words(codes, 16)[0] for codes in beside.stretches(small, regions, 16)])
    assert found.tolist() == whole.tolist()
    assert len(found) > 100


@pytest.mark.parametrize(
    ("overrides", "asked", "message"),
    [
        (
            [],
            Beside(motifs="motifs.txt"),
            'motif matrices answer "binary", "multilabel" and bins of "base_classes", not "masked_lm"',
        ),
        ([], Beside(leak_k=40), "--leak-k 40 is not between 8 and 31"),
        (["data.window=16", "data.stride=16"], Beside(leak_k=31), "--leak-k 31 is more than the 16 bases of a window"),
    ],
)
def test_what_cannot_be_had_is_refused(run_file, tmp_path, overrides, asked, message):
    run = Run.read(run_file, ["train.steps=1", *overrides])
    fit(run, tmp_path / "out")
    run.write(tmp_path / "out/run.toml")
    with pytest.raises(ConfigError, match=message):
        evaluation.evaluate(tmp_path / "out", "test", beside=asked)


@pytest.mark.data
def test_gue_tf0_without_a_network(data, tmp_path):
    """The k-mer regression of GUE's first task, in seconds; what others reached so is 0.894."""
    folder = data / "sequences/gue_tf/0"
    files = "\n".join(
        f'{part} = "{folder}/{name}.csv.gz"' for part, name in zip(SIZES, ("train", "dev", "test"), strict=True)
    )
    (tmp_path / "t.toml").write_text(
        f'format = 1\n[sequences]\nname = "t"\n{files}\nsequence = "sequence"\nlabel = "label"\nkind = "binary"\n'
    )
    build(read(tmp_path / "t.toml", Recipe), tmp_path / "t.zarr")
    short = (ROOT / "launch/runs/gue-tf0.toml").read_text().replace("epochs      = 4", "steps       = 1")
    (tmp_path / "run.toml").write_text(short)
    run = Run.read(tmp_path / "run.toml", [f"data.store={tmp_path / 't.zarr'}"])
    fit(run, tmp_path / "out")
    run.write(tmp_path / "out/run.toml")
    _, found = evaluation.evaluate(tmp_path / "out", "test", beside=Beside(baseline=True, leak_k=31))
    words = found["baselines"]["k-mer logistic regression"]
    assert words["metrics"]["auroc"] > 0.9
    low, high = words["intervals"]["auroc"]
    assert low < words["metrics"]["auroc"] < high
    assert found["without_leaks"]["leaked"] == 94
