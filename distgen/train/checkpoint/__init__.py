"""Checkpoints: sharded safetensors and JSON, written while training goes on; nothing is ever pickled or unpickled.

CHECKPOINTS/step-00000200/ holds `shard-<rank>-<number>.safetensors` of about 64 MiB, `tensors.json` (which piece of which
tensor lies where) and `state.json`: plain data of the training, the BLAKE3 of every other file and its own. A checkpoint is
there as a whole or not at all; `last` and `best` lead to it. Begin reading in `checkpoints.py`.
"""

from distgen.train.checkpoint.checkpoints import Checkpoints, newest
from distgen.train.checkpoint.reading import Checkpoint, open_checkpoint

__all__ = ["Checkpoint", "Checkpoints", "newest", "open_checkpoint"]
