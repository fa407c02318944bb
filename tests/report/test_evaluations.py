"""An evaluation as rows, and what is said of baselines that win."""

from distgen.report.evaluations import evaluation_rows, lost

FOUND = {
    "split": "test",
    "metrics": {"loss": 0.3, "auroc": {"a": 0.9, "b": 0.8}, "accuracy": 0.7},
    "intervals": {"auroc": [0.8, 0.9], "auroc.a": [0.88, 0.92], "accuracy": [0.6, 0.8]},
    "baselines": {
        "k-mers": {
            "metrics": {"loss": 0.2, "auroc": {"a": 0.7, "b": 0.8}, "accuracy": 0.9},
            "intervals": {"auroc": [0.7, 0.8]},
            "difference": {
                "auroc": {"value": 0.1, "low": 0.05, "high": 0.15},
                "auroc.a": {"value": 0.2, "low": 0.05, "high": 0.15},
                "loss": {"value": 0.1, "low": -0.05, "high": 0.25},
            },
            "p": {"auroc": 0.002, "auroc.a": 0.002, "loss": 0.2},
        }
    },
    "without_leaks": {"k": 31, "windows": 1000, "leaked": 94, "metrics": {"accuracy": 0.6}, "intervals": {}},
}


def test_rows_have_intervals_means_and_differences():
    rows = dict(evaluation_rows(FOUND))
    assert rows == {
        "loss": "0.3000",
        "auroc a": "0.9000 (0.8800 to 0.9200)",
        "auroc b": "0.8000",
        "accuracy": "0.7000 (0.6000 to 0.8000)",
        "auroc, mean": "0.8500 (0.8000 to 0.9000)",
        "loss, k-mers": "0.2000",
        "auroc, k-mers": "0.7500 (0.7000 to 0.8000)",
        "accuracy, k-mers": "0.9000",
        "auroc, above k-mers": "+0.1000 (+0.0500 to +0.1500), p 0.002",
        "loss, above k-mers": "+0.1000 (-0.0500 to +0.2500), p 0.2",
        "windows that share 31 bases with train": "94 of 1,000",
        "accuracy, without these": "0.6000",
    }


def test_a_baseline_wins_by_the_first_metric_that_says_who_does():
    assert lost(FOUND) == []
    better = {"metrics": {"auroc": 0.8}, "baselines": {"k-mers": {"metrics": {"auroc": 0.8}}}}
    assert lost(better) == ["The network loses to the baseline k-mers: 0.8000 against 0.8000 auroc."]
    bits = {"metrics": {"bits_per_base": 1.9}, "baselines": {"order 3": {"metrics": {"bits_per_base": 1.8}}}}
    assert lost(bits) == ["The network loses to the baseline order 3: 1.9000 against 1.8000 bits."]
    bits["baselines"]["order 3"]["metrics"]["bits_per_base"] = 1.95
    assert lost(bits) == []
