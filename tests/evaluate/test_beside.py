"""Linear models of bins along a genome, beside a network: of classes that a motif marks, and of a signal that bases make."""

import numpy as np
import pytest
import torch

from distgen.config import Recipe, read
from distgen.errors import ConfigError
from distgen.evaluate.beside import FLANK, Rows, codes_of
from distgen.genome import AMBIGUOUS, Interval
from distgen.store.build import build
from distgen.train import evaluation
from distgen.train.beside import Beside
from distgen.train.run import Run
from tests.conftest import fit
from tests.train.test_beside import MATRIX, MOTIF

BIN = 50
RECIPE = """format = 1
[assembly]
name = "planted"
fasta = "a.fa"
[[track]]
name = "bound"
source = ["one.bed", "two.bed"]
columns = ["one", "two"]
bin_bp = 50
[[track]]
name = "signal"
source = ["a.bedGraph"]
columns = ["rich"]
bin_bp = 50
reduce = "mean"
[split]
valid = ["a:40%-60%"]
test = ["a:60%-100%"]
"""
RUN = """name = "bins"
[data]
store = "{store}"
window = 400
target_length = 300
batch_size = 16
strand = "random"
[model]
family = "cnn"
channels = [8]
widths = [5]
pools = [10]
hidden = 8
[objective]
{question}
[train]
steps = 2
precision = "fp32"
threads = 1
"""
CLASSES = 'kind = "base_classes"\ntrack = "bound"'


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A genome of which some bins hold a motif, and have the classes; and whose signal is how many G and C a bin has."""
    folder, rng = tmp_path_factory.mktemp("bins"), np.random.default_rng(0)
    bases = rng.choice(list("ACGT"), 60_000)
    at = np.sort(rng.choice(60_000 // BIN, 100, replace=False)) * BIN + rng.integers(0, BIN - len(MOTIF), 100)
    for start in at:
        bases[start : start + len(MOTIF)] = list(MOTIF)
    (folder / "a.fa").write_text(">a\n" + "".join(bases) + "\n")
    lines = [f"a\t{start}\t{start + len(MOTIF)}\n" for start in at]
    (folder / "one.bed").write_text("".join(lines))
    (folder / "two.bed").write_text("".join(lines[::2]))
    rich = np.isin(bases, ["G", "C"]).reshape(-1, BIN).sum(1)
    (folder / "a.bedGraph").write_text(
        "".join(f"a\t{n * BIN}\t{(n + 1) * BIN}\t{value}\n" for n, value in enumerate(rich))
    )
    (folder / "t.toml").write_text(RECIPE)
    build(read(folder / "t.toml", Recipe), folder / "t.zarr")
    (folder / "motifs.txt").write_text(MATRIX)
    return folder


def begun(planted, out, question):
    out.mkdir()
    (out / "run.toml").write_text(RUN.format(store=planted / "t.zarr", question=question))
    return Run.read(out / "run.toml")


def trained(planted, out, question):
    run = begun(planted, out, question)
    fit(run, out)
    run.write(out / "run.toml")
    return out


def test_a_row_is_a_bin_and_what_is_around_it(planted, tmp_path):
    run = begun(planted, tmp_path / "out", CLASSES)
    store = run.open_store()
    objective = run.build_objective(store)
    loader = run.loader(store, objective, "test")
    rows, codes = Rows.of("binary", objective, loader), store.codes(Interval("a", 0, 60_000))
    truth = store.track("bound")[:]
    for batch in loader:
        found, answers, counts = rows.codes(batch), rows.answers(batch), (batch.weight > 0).tolist()
        assert len(found) == len(answers.values) == rows.count(batch) == 6 * sum(counts)
        places = [place for place, counted in zip(batch.where(), counts, strict=True) if counted]
        assert codes_of(batch).shape == (len(places), 400)
        for number, row in enumerate(found):
            place, at = places[number // 6], 50 + number % 6 * BIN
            around = np.arange(at - FLANK, at + BIN + FLANK)
            # what lies in another part of the split is not read
            expected = np.full(len(around), AMBIGUOUS)
            inside = (
                (around >= 0) & (around < 400) & (place.start + around >= 36_000) & (place.start + around < len(codes))
            )
            expected[inside] = codes[place.start + around[inside]]
            assert row.tolist() == expected.tolist(), (place, at, number)
            if answers.weights[number].all():
                assert answers.values[number].tolist() == truth[(place.start + at) // BIN].tolist()


def test_a_motif_that_marks_bins_is_found_in_them(planted, tmp_path):
    out = trained(planted, tmp_path / "out", CLASSES)
    asked = Beside(intervals=True, baseline=True, motifs=planted / "motifs.txt", leak_k=31)
    _, found = evaluation.evaluate(out, "test", beside=asked)
    words, scan = (found["baselines"][name] for name in ("k-mer logistic regression", "motif scan"))
    assert (scan["windows"], scan["of"]) == (480, 480)
    assert words["metrics"]["auroc"]["one"] > 0.7
    assert scan["metrics"]["auroc"]["one"] > 0.8  # a bin sees the motifs of its neighbours as well as its own
    assert scan["metrics"]["auroc"]["two"] < scan["metrics"]["auroc"]["one"]
    for entry in (found, words, scan):
        for name in ("one", "two"):
            low, high = entry["intervals"][f"auprc.{name}"]
            assert low <= entry["metrics"]["auprc"][name] <= high
    mean = scan["difference"]["auroc"]
    values = [found["metrics"]["auroc"][name] - scan["metrics"]["auroc"][name] for name in ("one", "two")]
    assert mean["value"] == pytest.approx(np.mean(values), abs=1e-5)
    assert mean["high"] < 0
    assert found["without_leaks"]["leaked"] == 0
    assert found["without_leaks"]["baselines"]["motif scan"]["difference"]["auroc"] == pytest.approx(mean)


def test_of_too_many_bins_no_answers_are_kept(planted, tmp_path, monkeypatch):
    monkeypatch.setattr("distgen.train.beside._MOST", 100)
    out = trained(planted, tmp_path / "classes", CLASSES)
    _, found = evaluation.evaluate(out, "test", beside=Beside(intervals=True, baseline=True))
    assert found["baselines"].keys() == {"prevalence", "9 bases around"}
    assert found["intervals"].keys() == {"loss"}
    out = trained(planted, tmp_path / "signal", 'kind = "track"\ntrack = "signal"')
    with pytest.raises(ConfigError, match="baselines of bins are for 100 answers at most, and this part has more"):
        evaluation.evaluate(out, "test", beside=Beside(baseline=True))
    _, found = evaluation.evaluate(out, "test", beside=Beside(intervals=True))
    assert found["intervals"].keys() == {"loss"}


@pytest.mark.parametrize("loss", ["poisson", "multinomial", "mse"])
@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_a_signal_that_bases_make_is_regressed_in_its_own_units(planted, tmp_path, loss, reduce):
    question = f'kind = "track"\ntrack = "signal"\nloss = "{loss}"\nreduce = "{reduce}"\nscale = 20.0'
    out = trained(planted, tmp_path / "out", question)
    _, found = evaluation.evaluate(out, "test", beside=Beside(baseline=True))
    words = found["baselines"]["k-mer ridge regression"]
    # A bin is a fifth of what its row has: its own share of G and C is hidden among that of all.
    assert 0.3 < words["metrics"]["pearson"]["rich"] < 0.7
    assert words["metrics"]["r2"]["rich"] > 0.1  # in units of the track, or it would be far below 0
    low, high = words["intervals"]["pearson"]
    assert low < words["metrics"]["pearson"]["rich"] < high
    objective = Run.read(out / "run.toml").build_objective(Run.read(out / "run.toml").open_store())
    values = torch.rand(2, 6, 1) * 30 + 1
    assert torch.allclose(objective.predictions(objective.logits(values), 6), values, rtol=1e-4)
