"""What a run may say of its training."""

import pytest

from distgen.errors import ConfigError
from distgen.train.run import Run


@pytest.mark.parametrize("key", ["finetune.init_from", "train.checkpoints", "cluster.address", "cluster.accelerator"])
def test_an_empty_name_is_refused_and_not_taken_for_none(run_file, key):
    with pytest.raises(ConfigError, match=f"{key}: .*at least 1 character"):
        Run.read(run_file, [f"{key}="])


def test_low_rank_sums_for_no_layer_are_refused(run_file):
    asked = ["finetune.init_from=x", "finetune.lora_rank=2", "finetune.lora=[]"]
    with pytest.raises(ConfigError, match="finetune.lora: .*at least 1"):
        Run.read(run_file, asked)


def test_workers_that_take_all_room_leave_none_for_validation(run_file):
    Run.read(run_file, ["cluster.workers=[2, 2]", "cluster.valid_aside=true"])
    with pytest.raises(ConfigError, match="cluster.valid_aside: 1 to 2 workers take whatever room there is"):
        Run.read(run_file, ["cluster.workers=[1, 2]", "cluster.valid_aside=true"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("optimizer.betas=[0.9]", r"optimizer\.betas\[1\]: there is a value too few$"),
        ("log.profile=[1]", r"log\.profile\[1\]: there is a value too few"),
        ("cluster.workers=two", r'cluster\.workers: input should be a valid integer, not "two"$'),
        ("cluster.workers=[0, 2]", r"cluster\.workers: "),
        ("train.micro_batch=0", r"train\.micro_batch: input should be greater than 0, not 0$"),
        ("cluster.resources={CPU=1}", "resources are others than CPU"),
        ("cluster.resources={object_store_memory=1}", "resources are others than object_store_memory"),
        ("cluster.resources={ssd=inf}", r"cluster\.resources\.ssd: input should be a finite number"),
        ('log.to=["mlflow", "mlflow"]', "log.to: a place stands there twice"),
    ],
)
def test_nonsense_is_told_at_its_key(run_file, given, said):
    with pytest.raises(ConfigError, match=said):
        Run.read(run_file, [given])
