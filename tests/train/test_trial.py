"""One trial of a sweep, without Ray."""

import json
import math

import pytest

from distgen.config import Sweep, read
from distgen.errors import ConfigError
from distgen.train.plan import Plan, Told, propose
from distgen.train.trial import Training, check, trials
from tests.conftest import fit, weights


@pytest.fixture
def asked(run_file):
    def made(text):
        (run_file.parent / "s.toml").write_text('run = "tiny.toml"\n' + text)
        return read(run_file.parent / "s.toml", Sweep)

    return made


def begun(sweep, folder, point):
    (trial,) = trials(sweep, folder, 0, point)
    trial.begin(sweep)
    return trial


def test_a_trial_hands_over_each_validation_and_ends_as_a_run_alone(asked, tmp_path):
    sweep = asked("")
    trial = begun(sweep, tmp_path / "out", {"optimizer.lr": 1e-3})
    training = Training(trial.out, "loss")
    results = [training.step()]
    assert results[0]["step"] == 6
    # It waits: nothing is trained beyond the step that is decided about.
    assert json.loads((trial.out / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 6
    results.append(training.step())
    assert results[1].keys() == {"step", "value", "state"}
    assert (results[1]["step"], results[1]["state"]) == (12, "done")
    fit(trial.run(sweep), tmp_path / "alone")
    there, alone = weights(trial.out), weights(tmp_path / "alone")
    assert all((there[name] == alone[name]).all() for name in alone)
    assert json.loads((trial.out / "evaluate-valid.json").read_text())["by_unit"]


def test_a_trial_that_is_stopped_keeps_a_checkpoint_and_goes_on_from_it(asked, tmp_path):
    sweep = asked("")
    trial = begun(sweep, tmp_path / "out", {"train.checkpoint_every": 100})
    training = Training(trial.out, "loss")
    training.step()
    training.leave()
    assert training.step()["state"] == "stopped"
    assert json.loads((trial.out / "checkpoints/last/state.json").read_text())["step"] == 7
    again = Training(trial.out, "loss")
    assert again.step()["state"] == "done"
    fit(trial.run(sweep), tmp_path / "alone")
    there, alone = weights(trial.out), weights(tmp_path / "alone")
    assert all((there[name] == alone[name]).all() for name in alone)


def test_a_failure_is_an_outcome(asked, tmp_path):
    trial = begun(asked(""), tmp_path / "out", {"optimizer.lr": 1e30})
    result = Training(trial.out, "loss").step()
    assert result["state"] == "failed"
    assert "Start another run with a lower optimizer.lr" in result["error"]
    other = begun(asked('metric = "auprc.cds+"'), tmp_path / "other", {})
    result = Training(other.out, "auprc.cds+").step()
    assert result["error"].startswith('the validation has no "auprc.cds+"; it has loss')


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[space]\noptimizer.lrr = [1e-3]", 's.toml:3: space.optimizer.lrr: optimizer.lrr = 0.001: .*there is no key "lrr"'),
        ("[space]\noptimizer.lr = [1e-3, -1.0]", r"s.toml:3: space.optimizer.lr: optimizer.lr = -1.0: "),
        ("[space]\noptimizer.lr = [1e-3]\ndata.target_length = [64, 66]", r"s.toml:4: space.data.target_length: data.target_length = 66: "),
        ("folds = 5", r's.toml:2: folds: .*no split.*\[splits.default\] folds = 5'),
        ('[space]\ndata.split = ["nosplit"]', r"s.toml:3: space.data.split: "),
    ],
)  # fmt: skip
def test_a_bad_value_is_refused_with_its_line_before_anything_is_written(asked, tmp_path, text, problem):
    with pytest.raises(ConfigError, match=problem):
        Plan(asked(text), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_workers_are_refused(asked, run_file, tmp_path):
    run_file.write_text(run_file.read_text() + "[cluster]\nworkers = 2\n")
    with pytest.raises(ConfigError, match=r"asks for 2 workers: a trial of a sweep is trained in one process"):
        check(asked(""), tmp_path, [{}])


def test_what_ended_is_not_planned_again_and_what_failed_is(asked, tmp_path):
    sweep = asked("[space]\noptimizer.lr = [1e-3, 2e-3, 3e-3]")
    plan = Plan(sweep, tmp_path)
    plan.begin()
    one, other, last = (plan.next() for _ in range(3))
    assert plan.next() is None
    one.end({"state": "done", "step": 12, "value": 1.0})
    other.end({"state": "failed", "error": "x"})
    again = Plan(sweep, tmp_path)
    assert again.most == 2
    assert [again.next().out.name for _ in range(2)] == ["001", "002"]
    assert last.out.name == "002"


def test_another_sweep_in_the_same_place_is_refused(asked, run_file, tmp_path):
    plan = Plan(asked("[space]\noptimizer.lr = [1e-3]"), tmp_path / "out")
    plan.begin()
    plan.next()
    with pytest.raises(ConfigError, match=r"s.toml:3: space: .* is another sweep, whose space is"):
        Plan(asked("seed = 0\n[space]\noptimizer.lr = [2e-3]"), tmp_path / "out")
    run_file.write_text(run_file.read_text().replace("channels = 8", "channels = 16"))
    with pytest.raises(ConfigError, match="000/run.toml is another trial: model.channels 8, now 16"):
        Plan(asked("[space]\noptimizer.lr = [1e-3]"), tmp_path / "out")


def test_stopping_early_needs_validations_at_steps(asked, run_file, tmp_path):
    with pytest.raises(ConfigError, match=r"s.toml:3: asha.grace_steps: no trial has more than 12 steps"):
        Plan(asked("[asha]\ngrace_steps = 12"), tmp_path)
    run_file.write_text(run_file.read_text().replace("valid_every = 6", ""))
    with pytest.raises(ConfigError, match=r"s.toml:2: asha: trials are stopped after a validation"):
        Plan(asked("[asha]\ngrace_steps = 2"), tmp_path)


OPTUNA = """search = "optuna"
samples = 20
[space]
optimizer.lr = { low = 1e-5, high = 1e-1, log = true }
model.channels = { low = 4, high = 8 }
optimizer.betas = [[0.9, 0.98], [0.8, 0.9]]
"""


def test_proposals_are_a_function_of_what_came_before_and_learn_from_it(asked):
    pytest.importorskip("optuna")
    sweep, told = asked(OPTUNA), []
    for _ in range(40):
        point = propose(sweep, told)
        assert point == propose(sweep, told)
        assert 4 <= point["model.channels"] <= 8
        assert point["optimizer.betas"] in ([0.9, 0.98], [0.8, 0.9])
        told.append(Told(point, {6: abs(math.log(point["optimizer.lr"] / 0.03))}, "done"))
    late = [point["optimizer.lr"] for point, _, _ in told[25:]]
    assert sum(0.01 < lr < 0.1 for lr in late) >= 8  # a draw by chance is there every fourth time


def test_proposals_take_what_runs_failed_or_was_stopped(asked):
    pytest.importorskip("optuna")
    sweep = asked(OPTUNA)
    point = propose(sweep, [])
    told = [
        Told(point, {}, "running"),
        Told(point, {}, "failed"),
        Told(point, {6: 1.0}, "stopped"),
        Told(point, {}, "done"),
    ]
    assert propose(sweep, told).keys() == point.keys()


def test_a_configuration_that_is_made_up_and_does_not_fit_ends_nothing_but_itself(asked, tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    made_up = iter([{"model.channels": -1}, {"model.channels": 5}])
    monkeypatch.setattr("distgen.train.plan.propose", lambda sweep, told: next(made_up))
    sweep = asked('search = "optuna"\nsamples = 2\n[space]\nmodel.channels = { low = 4, high = 8 }\n')
    plan = Plan(sweep, tmp_path)
    plan.begin()
    assert plan.next().out.name == "001"
    assert plan.next() is None
    outcome = plan.named("000").outcome
    assert (outcome["state"], "model.channels" in outcome["error"]) == ("failed", True)


def test_an_optimizer_that_is_not_there_is_refused_though_another_fits(asked, tmp_path, monkeypatch):
    monkeypatch.delattr("torch.optim.Muon", raising=False)
    with pytest.raises(
        ConfigError, match=r's.toml:3: space.optimizer.kind: optimizer.kind = "muon": .*came with torch'
    ):
        Plan(asked('[space]\noptimizer.kind = ["adamw", "muon"]'), tmp_path / "out")


def test_a_validation_that_is_no_number_is_a_failure(asked, tmp_path, monkeypatch):
    monkeypatch.setattr("distgen.train.trial.named_value", lambda values, name: math.nan)
    trial = begun(asked(""), tmp_path / "out", {})
    result = Training(trial.out, "loss").step()
    assert (result["state"], result["error"]) == ("failed", 'the "loss" of the validation of step 6 is nan')
