"""How a run is trained: its optimizer, how long and how precisely, what it begins with, where, and what is told of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from distgen.config.file import File, NotNegative, Positive, Section, Share, Strings, TableError

Rate = Annotated[float, Field(gt=0, lt=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Sizes = Annotated[tuple[Positive, Positive], Field(strict=False)]
Text = Annotated[str, Field(min_length=1)]
Finite = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Optimizer(Section):
    """What moves the weights, and how the rate goes from step to step.

    `adamw` is AdamW (Loshchilov and Hutter 2019). `muon` moves the matrices and convolutions between the first layer and
    the last by Muon (Jordan 2024), scaled so that the same `lr` and `weight_decay` fit them (Liu et al. 2025), and the rest
    by AdamW. `betas` are AdamW's; what has one axis (biases, norms) does not decay.

    The rate rises to `lr` over `warmup_steps` (50 if left out; at most half of all steps), then follows `schedule` until it
    is `final` times `lr`: it stays what it is (`constant`, which has no `final`), or falls along a straight line (`linear`),
    along half a cosine (`cosine`), or along a line over the last `decay` of all steps and not before (`wsd`, Hu et al. 2024;
    0.2 if left out). `one-cycle` (Smith and Topin 2018) rises along half a cosine from
    `lr / 25`, over 30 % of all steps if `warmup_steps` is left out, and falls along another.

    A gradient longer than `clip_norm` is shortened to it. With `ema` the weights are averaged with that decay, and it is
    the average that is validated and evaluated.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    lr: Finite = 3e-3
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    betas: Annotated[tuple[Beta, Beta], Field(strict=False)] = (0.9, 0.98)
    schedule: Literal["constant", "linear", "cosine", "wsd", "one-cycle"] = "cosine"
    warmup_steps: NotNegative | None = None
    decay: Annotated[float, Field(gt=0, le=1)] | None = None
    final: Share = 0.0
    clip_norm: Finite = 1.0
    ema: Rate | None = None

    @model_validator(mode="after")
    def _check(self) -> Optimizer:
        if self.decay is not None and self.schedule != "wsd":
            raise ValueError(f'decay is how long the schedule "wsd" falls: leave it out of "{self.schedule}"')
        if self.final and self.schedule == "constant":
            raise ValueError('the schedule "constant" ends with the rate it has: leave out final')
        return self


class Train(Section):
    """How long, how precisely, and what is kept.

    `valid_every` and `checkpoint_every` count steps; the last step is always validated and saved. The newest `keep`
    checkpoints stay, and the `keep_best` best. `patience` ends the training after so many validations in a row without a
    better one. With `both_strands` validation asks each window and its reverse complement, and averages what is predicted.
    `checkpoints` is where they are kept instead of in the run directory: a folder or `s3://bucket/name`, of
    this run alone.

    `precision` is what is computed in; weights stay float32. `auto` is bfloat16 where the hardware multiplies it, else
    float32; `fp16` scales the loss so that gradients stay in its range; `fp8` computes linear layers between the first and
    the last whose sizes divide by 16 in eight bits, and the rest in bfloat16 (torchao, the extra `fp8`; worth its while
    with `compile`).
    `micro_batch` is how many rows go through a worker's model at once, `auto` as many as the device has memory for, all if
    it is left out: the global batch stays what [data] says. `activation_checkpointing` keeps only what goes into each
    block and computes the rest again on the way back. `compile` compiles the blocks for each shape of their input.
    `deterministic` makes a run on the same number of workers end in the same weights, bit for bit; `threads` are those of
    one worker; without it a deterministic run has as many as `cluster.cpus_per_worker`.
    """

    steps: Positive | None = None
    epochs: Positive | None = None
    precision: Literal["auto", "bf16", "fp16", "fp32", "fp8"] = "auto"
    micro_batch: Positive | Literal["auto"] | None = None
    deterministic: bool = False
    compile: bool = False
    activation_checkpointing: bool = False
    threads: Positive | None = None
    valid_every: Positive | None = None
    checkpoint_every: Positive | None = None
    keep: Positive = 2
    keep_best: Positive = 1
    patience: Positive | None = None
    both_strands: bool = False
    checkpoints: Text | None = None

    @model_validator(mode="after")
    def _check(self) -> Train:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        if self.patience and not self.valid_every:
            raise ValueError("patience counts validations: give valid_every")
        return self


class Finetune(Section):
    """What a training begins with instead of random weights: those of a run directory, a checkpoint or exported weights, or
    the `motifs` of a MEME or JASPAR file, as filters of the first layer (`distgen.train.finetune`).

    Weights may be of another store, and of a model that reads more channels (such as the mask of a language model): those that
    this run reads are taken. Parameters whose names match a glob of `freeze` stay as they are. `new_head` leaves the
    parameters that give the outputs as they are drawn. With `lora_rank` all stay as they are but a new head, and every linear
    or convolutional layer whose name matches a glob of `lora` learns what is added to its weight: a sum of that many outer
    products, times `lora_alpha / lora_rank` (Hu et al. 2021).
    """

    init_from: Text | None = None
    motifs: Text | None = None
    freeze: Strings = ()
    new_head: bool = False
    lora_rank: Positive | None = None
    lora_alpha: Finite = 16.0
    lora: Annotated[Strings, Field(min_length=1)] = ("*",)

    @model_validator(mode="after")
    def _check(self) -> Finetune:
        if self.init_from and self.motifs:
            raise TableError("init_from says already what the first layer begins with. Leave one of both out", "motifs")
        given = next((key for key in ("freeze", "new_head", "lora_rank") if getattr(self, key)), None)
        if given and not (self.init_from or (self.motifs and given == "freeze")):
            raise TableError("without init_from all weights are drawn, and there is nothing yet to keep", given)
        if self.lora_rank is None and (self.lora_alpha, self.lora) != (16.0, ("*",)):
            raise TableError("lora and lora_alpha say how what lora_rank adds is added. Give lora_rank", "lora_rank")
        if self.lora_rank and self.freeze:
            raise TableError("with lora_rank all weights stay as they are. Leave freeze out", "freeze")
        return self


class Cluster(Section):
    """Where a run is trained: `workers = 0` in this process, N on N Ray Train workers, `[min, max]` on as many as there are.

    Each worker gets `cpus_per_worker` cores, a GPU where the cluster has any (`gpus_per_worker` 0 or 1 says otherwise), and
    what else `resources` names; `accelerator` is the kind of GPU, such as "A100", and `placement` how workers are spread
    over nodes. `address` is that of a Ray cluster, else RAY_ADDRESS; without either one starts on this machine.
    `parallel` says whether each worker holds the whole model (`ddp`), a shard of it (`fsdp`), or whether every `shards`
    workers, next to each other by rank, hold it together (`hybrid`; those of a node if it is not said); `context` workers
    share each window. `valid_aside` has checkpoints validated by one more process, with resources like a worker's, while
    training goes on. `max_failures` is how often workers that died are started again, `restarts` how often the process that
    started them is.
    """

    workers: NotNegative | Sizes = 0
    cpus_per_worker: Positive = 1
    gpus_per_worker: Literal[0, 1] | None = None  # a worker computes on one device, and NCCL shares none
    accelerator: Text | None = None
    resources: dict[str, Finite] = Field(default_factory=dict)
    placement: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = "PACK"
    address: Text | None = None
    parallel: Literal["ddp", "fsdp", "hybrid"] = "ddp"
    shards: Positive | None = None
    context: Positive = 1
    max_failures: NotNegative = 3
    restarts: NotNegative = 0
    valid_aside: bool = False

    @model_validator(mode="after")
    def _check(self) -> Cluster:
        if isinstance(self.workers, tuple) and self.workers[0] > self.workers[1]:
            raise ValueError(f"workers are [fewest, most], not {list(self.workers)}")
        if taken := {"CPU", "GPU", "TPU", "object_store_memory"} & self.resources.keys():
            raise ValueError(
                f"resources are others than {min(taken)} (cpus_per_worker and gpus_per_worker say CPU and GPU)"
            )
        if self.valid_aside and self.fewest < self.most:
            problem = f"{self.fewest} to {self.most} workers take whatever room there is, and leave none for validation"
            raise TableError(f"{problem}: give one number of workers, or leave it out", "valid_aside")
        return self

    @property
    def fewest(self) -> int:
        """Workers that there are at least; 1 where this process is the only one."""
        return self.workers[0] if isinstance(self.workers, tuple) else max(self.workers, 1)

    @property
    def most(self) -> int:
        """Workers that there are at most; 1 where this process is the only one."""
        return self.workers[1] if isinstance(self.workers, tuple) else max(self.workers, 1)


class Restarted(File, extra="ignore"):
    """What of a run says how often its process is started again."""

    cluster: Cluster = Cluster()


def fitting_shards(workers: int) -> list[int]:
    """How many workers may hold a model together, for each copy to be held by as many."""
    return [shards for shards in range(1, workers + 1) if workers % shards == 0]


class Log(Section):
    """What is told of a training, how often, and to whom.

    A record goes to metrics.jsonl `every` so many steps, and `to` other places: MLflow and W&B by what their own environment
    variables say. `profile` traces steps [first, last] of rank 0 to DIR/profile. `gap_batches` of the training part are
    measured at every validation, as validation is, to tell over- from underfitting; 0 spares that. `peak_tflops` is what a
    device can do, for MFU: by default that of its data sheet, where distgen knows it; "measure" multiplies large matrices.
    """

    every: Positive = 10
    to: Annotated[tuple[Literal["tensorboard", "mlflow", "wandb"], ...], Field(strict=False)] = ()
    profile: Sizes | None = None
    gap_batches: NotNegative = 16
    peak_tflops: Finite | Literal["measure"] | None = None

    @model_validator(mode="after")
    def _check(self) -> Log:
        if self.profile and self.profile[0] > self.profile[1]:
            raise ValueError(f"profile is [first, last] step, not {list(self.profile)}")
        if len(set(self.to)) < len(self.to):
            raise TableError("a place stands there twice", "to")
        return self
