import json
import re

from distgen.report import html
from distgen.report.html import write_report
from distgen.train.run import Run
from tests.conftest import RUN
from tests.report.test_verdict import curves, records
from tests.store.conftest import index_of, tiny_store


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
                "baselines": {"markov order 0": {"metrics": {"bits_per_base": 2.0}}},
                "reliability": {
                    "bound": {"confidence": [0.2], "share": [0.3], "count": [4]},
                    "never": {"confidence": [], "share": [], "count": []},
                },
            }
        )
    )
    page = write_report(tmp_path).read_text()
    assert "<svg" in page
    assert "a&lt;b" in page
    assert "Reliability" in page
    for cell in ("200,000", "1.0%", "auroc cds+", "0.9900", "bits_per_base, markov order 0", "2.0000"):
        assert f"<td>{cell}</td>" in page
    assert not re.search(r"(?:src|href)=\"(?!#)", page)


def test_the_verdict_comes_first_and_kept_checkpoints_have_their_losses(tmp_path):
    (tmp_path / "run.toml").write_text('name = "a"\n')
    v, t = curves("overfits", 20)
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps(r | {"bases_per_second": 1.0, "wait_share": 0.0}) + "\n" for r in records(v, t))
    )
    folder = tmp_path / "checkpoints"
    for step in (400, 1000):
        (folder / f"step-{step:08d}").mkdir(parents=True)
    (folder / "best").symlink_to("step-00000400")
    (folder / "last").symlink_to("step-00001000")
    page = write_report(tmp_path).read_text()
    assert "<p><strong>Overfits.</strong> From step 350 to 1,000 the validation loss rose from" in page
    assert f"<td>step-00000400</td><td>{v[7]:.4f}</td><td>best</td>" in page
    assert f"<td>step-00001000</td><td>{v[-1]:.4f}</td><td>last</td>" in page
    assert "<th>valid, step 1,000, the last</th><th>train, step 1,000, the last</th>" in page


def started(run_file):
    """A run directory after one step."""
    out = run_file.parent / "runs"
    out.mkdir()
    Run.read(run_file).write(out / "run.toml")
    (out / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0, "bases_per_second": 1.0, "wait_share": 0.0}\n')
    return out


def test_the_page_shows_what_targets_cover_while_the_store_is_there(run_file, tmp_path):
    out = started(run_file)
    page = write_report(out).read_text()
    assert "<td>40 windows of 64 bases, one every 32; an epoch is 5 batches of 8" in page
    assert page.count("<svg") == 3
    (tmp_path / "small.zarr").rename(tmp_path / "moved.zarr")
    page = write_report(out).read_text()
    assert page.count("<svg") == 2
    assert re.search(r"<p>Not shown: run [^<]*data\.store: store [^<]*small\.zarr does not exist[^<]*</p>", page)


def test_of_a_collection_all_is_told_together_and_then_of_each_store(tmp_path, monkeypatch):
    (tmp_path / "stores").mkdir()
    for number in (1, 2, 3):
        tiny_store(tmp_path, f"g{number}", "GATTACA" * 40 * number)
    (tmp_path / "tiny.toml").write_text(RUN.format(store=index_of(tmp_path)))
    out = started(tmp_path / "tiny.toml")
    page = write_report(out).read_text()
    assert "<td>54 windows of 64 bases, one every 32, in 3 stores; an epoch is 6 batches of 8; " in page
    assert re.findall("<h3>store (.*?)</h3>", page) == ["g3", "g2", "g1"]
    assert page.count("<svg") == 3
    monkeypatch.setattr(html, "_COUNTED", 2)
    page = write_report(out).read_text()
    assert f"<p>Not shown: 3 stores are many. Run: distgen info --windows {out}</p>" in page
    assert page.count("<svg") == 2
