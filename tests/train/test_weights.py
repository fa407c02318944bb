import json

import pytest
import torch
from safetensors.torch import load_file

import distgen
from distgen.cli import run as command
from distgen.errors import CheckpointError, ConfigError
from distgen.train.finetune import start_model
from distgen.train.model import schema_of
from distgen.train.run import Run
from distgen.train.weights import export_weights, load_weights, trained_checkpoint
from tests.conftest import fit, weights


@pytest.fixture
def trained(run_file, tmp_path):
    """A run directory."""
    return train(run_file, tmp_path / "out")


def train(run_file, out, *changes):
    run = Run.read(run_file, ["train.steps=6", *changes])
    out.mkdir()
    run.write(out / "run.toml")
    fit(run, out)
    return out


def logits(model, run):
    store = run.open_store()
    objective = run.build_objective(store)
    batch = run.loader(store, objective, "train").batch(0, 0)
    x, _, _ = objective.encode(batch, torch.float32, evaluating=True)
    with torch.no_grad():
        return model(x)


def test_an_export_gives_the_logits_of_its_run_to_the_bit_and_needs_no_store(trained, tmp_path):
    config = export_weights(trained, tmp_path / "exported")
    exported, read = distgen.load_model(tmp_path / "exported")
    assert read == json.loads((tmp_path / "exported/config.json").read_text()) == json.loads(json.dumps(config))
    model, _ = distgen.load_model(trained)
    best = weights(trained, "best")
    assert all(torch.equal(value, best[name]) for name, value in model.state_dict().items())
    run = Run.find(trained)
    assert not exported.training
    assert torch.equal(logits(exported, run), logits(model, run))
    wanted = {"outputs": ["A", "C", "G", "T"], "window": 64, "target_length": 64, "strand": "random", "step": 6}
    assert read.items() >= wanted.items()


def test_a_checkpoint_is_exported_when_it_is_named(trained, tmp_path):
    config = export_weights(trained / "checkpoints/step-00000004", tmp_path / "exported")
    assert config["step"] == 4
    kept = weights(trained, "step-00000004")
    exported = load_file(tmp_path / "exported/model.safetensors")
    assert exported.keys() == kept.keys()
    assert all(torch.equal(exported[name], kept[name]) for name in kept)


def test_low_rank_sums_are_in_the_exported_weights(run_file, trained, tmp_path):
    tuned = train(run_file, tmp_path / "tuned", f"finetune.init_from='{trained}'", "finetune.lora_rank=2")
    export_weights(tuned, tmp_path / "exported")
    exported, _ = distgen.load_model(tmp_path / "exported")
    assert exported.state_dict().keys() == distgen.load_model(trained)[0].state_dict().keys()
    run = Run.find(tuned)
    adapted = start_model(run, schema_of(run.build_objective(run.open_store())), begins=False).eval()
    load_weights(trained_checkpoint(tuned)[1], adapted.state_dict())
    assert any("parametrizations" in name for name in adapted.state_dict())
    assert torch.equal(logits(exported, run), logits(adapted, run))
    assert not torch.equal(logits(exported, run), logits(distgen.load_model(trained)[0], run))


def test_loading_draws_nothing(trained):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    distgen.load_model(trained)
    assert torch.equal(torch.rand(3), expected)


def test_what_cannot_be_exported_or_loaded_is_refused(trained, tmp_path):
    export_weights(trained, tmp_path / "exported")
    with pytest.raises(ConfigError, match="exported exists. Give another --out"):
        export_weights(trained, tmp_path / "exported")
    with pytest.raises(ConfigError, match=r"nothing is no run directory"):
        distgen.load_model(tmp_path / "nothing")
    config = (tmp_path / "exported/config.json").read_text()
    (tmp_path / "exported/config.json").write_text(config.replace('"format": 1', '"format": 2'))
    with pytest.raises(CheckpointError, match="has format 2: this distgen reads 1"):
        distgen.load_model(tmp_path / "exported")
    (tmp_path / "exported/config.json").write_text(config)
    file = tmp_path / "exported/model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(CheckpointError, match=r"model.safetensors is missing, or damaged"):
        distgen.load_model(tmp_path / "exported")


def test_the_command_says_what_it_wrote(trained, tmp_path, capsys):
    assert command(["export-weights", str(trained), "--out", str(tmp_path / "exported")]) == 0
    assert "the trained weights of tiny after step 6" in capsys.readouterr().out
    assert command(["export-weights", str(trained), "--out", str(tmp_path / "exported")]) == 2


def test_an_export_is_for_whoever_may_read_what_one_writes(trained, tmp_path):
    export_weights(trained, tmp_path / "exported")
    assert len({path.stat().st_mode for path in (tmp_path / "exported").iterdir()}) == 1
