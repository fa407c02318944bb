"""The ranking of configurations, from measurements that are known."""

import json

import numpy as np
import pytest

from distgen.config import Sweep
from distgen.errors import CheckpointError
from distgen.report.sweep import add_verdicts, leaderboard_rows, remarks, write_leaderboard
from distgen.train import leaderboard
from distgen.train.trial import Trial

CONTIGS = [f"chr{number}" for number in range(1, 9)]


@pytest.fixture
def ranked(tmp_path, monkeypatch):
    """Ranks trials with a given loss on each contig: {(configuration, seed): losses}."""

    def made(losses, mode="min", **states):
        tables, trials = {}, []
        for (number, seed), values in losses.items():
            trial = Trial(
                tmp_path / "trials" / f"{number:03d}-seed{seed}", number, {"optimizer.lr": number}, {"data.seed": seed}
            )
            trial.out.mkdir(parents=True)
            trial.end({"state": "failed", "error": "it broke"} if values is None else {"state": "done"})
            mean = values and sum(values) / len(values)
            by_unit = {name: {"targets": 10, "loss": value} for name, value in zip(CONTIGS, values or [], strict=False)}
            tables[trial.out] = {"step": 5, "units": "contigs", "metrics": {"loss": mean}, "by_unit": by_unit}
            trials.append(trial)
        monkeypatch.setattr(leaderboard, "measured", tables.__getitem__)
        return leaderboard.leaderboard(Sweep(run="x", mode=mode, seeds=(0, 1)), trials)

    return made


def test_the_mean_over_seeds_ranks_and_the_difference_is_that_over_contigs(ranked):
    found = ranked({(0, 0): [1.0] * 8, (0, 1): [1.2] * 8, (1, 0): [0.9] * 8, (1, 1): [0.7] * 8})
    first, second = found["configurations"]
    assert (first["configuration"], first["mean"], first["rank"]) == (1, pytest.approx(0.8), 1)
    assert first["sd"] == pytest.approx(0.1 * 2**0.5)
    against = second["against_best"]
    assert [against[key] for key in ("value", "low", "high")] == pytest.approx([0.3] * 3)
    assert against["p"] < 0.001
    assert (against["units"], against["trials"]) == (8, 2)
    assert first["against_best"] is None


def test_higher_is_better_where_it_is_said(ranked):
    found = ranked({(0, 0): [1.0] * 8, (1, 0): [2.0] * 8}, mode="max")
    assert [one["configuration"] for one in found["configurations"]] == [1, 0]
    assert [row["trial"] for row in found["trials"]] == ["001-seed0", "000-seed0"]


def test_what_differs_by_chance_is_not_significant(ranked):
    found = ranked({(0, 0): [1, 2, 3, 4, 5, 6, 7, 8], (1, 0): [2, 1, 4, 3, 6, 5, 8, 7.2]})
    against = found["configurations"][1]["against_best"]
    assert against["low"] < 0 < against["high"]
    assert against["p"] > 0.3


def test_only_trials_that_both_have_are_compared_and_what_lacks_one_comes_last(ranked):
    found = ranked({(0, 0): [5.0] * 8, (0, 1): [9.0] * 8, (1, 0): [4.0] * 8, (1, 1): None})
    first, second = found["configurations"]
    assert (first["configuration"], second["ended"]) == (0, 1)
    assert (second["against_best"]["trials"], second["against_best"]["value"]) == (1, pytest.approx(-1))
    assert next(row for row in found["trials"] if row["state"] == "failed")["error"] == "it broke"


def test_p_allows_for_how_many_comparisons_there_are(ranked):
    drawn = np.random.default_rng(3).normal(0, 1, (3, 8)) + np.array([[0], [0.8], [0.9]])
    found = ranked({(number, 0): list(values) for number, values in enumerate(drawn)})["configurations"][1:]
    small, large = sorted((one["against_best"] for one in found), key=lambda against: against["p"])
    assert 0 < small["p"] < 0.3
    assert small["p_of_all"] == pytest.approx(2 * small["p"])
    assert large["p_of_all"] == max(small["p_of_all"], large["p"])


def test_too_few_contigs_are_not_resampled(ranked):
    found = ranked({(0, 0): [1.0] * 5, (1, 0): [2.0] * 5})
    assert found["configurations"][1]["against_best"] is None


def test_table_and_page_say_what_was_found(ranked, tmp_path):
    found = ranked({(0, 0): [1.0] * 8, (1, 0): [2.0] * 8, (2, 0): None})
    (tmp_path / "sweep.toml").write_text('run = "x"\n')
    add_verdicts(tmp_path, found)
    rows = leaderboard_rows(found)
    assert rows[1][:4] == ("1", "000: optimizer.lr 0", "1.0000", "")
    assert rows[2][6:8] == ("+1.0000", "+1.0000 to +1.0000")
    assert "8 contigs" in " ".join(remarks(found))
    page = write_leaderboard(tmp_path, found).read_text()
    assert "it broke" in page
    assert "too short" in page
    json.dumps(found, allow_nan=False)


def test_contigs_of_all_folds_are_resampled_where_one_fold_has_too_few():
    def fold(first):
        by_unit = {
            f"chr{n}:{b}-{b + 9}": {"targets": 2 + b, "loss": n + b} for n in range(first, first + 3) for b in (0, 9)
        }
        return {"units": "blocks", "by_unit": by_unit}

    sweep = Sweep(run="x")
    found = leaderboard._by_unit(sweep, [fold(0), fold(3)])
    assert found == {f"chr{n}": ((2 * n + 11 * (n + 9)) / 13, 13) for n in range(6)}
    assert leaderboard._by_unit(sweep, [fold(0)])["chr1:9-18"] == (10, 11)


def test_a_trial_whose_checkpoint_is_damaged_is_told_and_the_others_are_ranked(tmp_path, monkeypatch):
    trials = [Trial(tmp_path / name, number, {}, {}) for number, name in enumerate(("000", "001"))]
    for trial in trials:
        trial.out.mkdir()
        trial.end({"state": "stopped"})

    def measured(out):
        if out.name == "000":
            raise CheckpointError("checkpoint best is not whole")
        return {"step": 5, "metrics": {"loss": 1.0}}

    monkeypatch.setattr(leaderboard, "measured", measured)
    found = leaderboard.leaderboard(Sweep(run="x"), trials)
    assert [(row["trial"], row["value"]) for row in found["trials"]] == [("001", 1.0), ("000", None)]
    assert found["trials"][1]["error"] == "checkpoint best is not whole"
