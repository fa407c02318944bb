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
