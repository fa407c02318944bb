import json
import re

from distgen.report.html import write_report


def test_the_page_is_whole_and_loads_nothing(tmp_path):
    (tmp_path / "run.toml").write_text('name = "a<b"\n')
    steps = [
        {"step": s, "loss": 2.0 / s, "bits_per_base": 3.0 / s, "bases_per_second": 1e5 * s, "wait_share": 0.01}
        for s in (1, 2, 3)
    ]
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps(s) + "\n" for s in [*steps, {"step": 3, "valid": {"loss": 1, "bits_per_base": 1.4}}])
    )
    (tmp_path / "evaluate-test.json").write_text(
        json.dumps(
            {
                "split": "test",
                "metrics": {"bits_per_base": 1.81, "auroc": {"cds+": 0.99}},
                "baselines": {"markov order 0": 2.0},
            }
        )
    )
    page = write_report(tmp_path).read_text()
    assert "<svg" in page
    assert "a&lt;b" in page
    for cell in ("200,000", "1.0%", "auroc cds+", "0.9900", "bits_per_base, markov order 0", "2.0000"):
        assert f"<td>{cell}</td>" in page
    assert not re.search(r"(?:src|href)=\"(?!#)", page)
