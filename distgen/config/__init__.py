"""Typed, frozen configuration: TOML in, every check in one place, a canonical hash out.

`[model]` and `[objective]` of a run live with the code they configure.
"""

from distgen.config.collection import Collection, Mixture, Weighted, is_collection
from distgen.config.file import File, Name, Positive, Section, checked, digest, read, source_name
from distgen.config.recipe import (
    ContigRules,
    Drawn,
    Homology,
    Labelled,
    MatrixTable,
    Recipe,
    Sequences,
    Split,
    VariantsTable,
    is_bed,
)
from distgen.config.run import Data
from distgen.config.sweep import Point, Range, Sweep
from distgen.config.track import Track
from distgen.config.training import Cluster, Finetune, Log, Optimizer, Rate, Restarted, Train, fitting_shards
from distgen.config.windows import At, Lengths, Personal, Pool, Regions, Sample, Windows, check_lengths

# The bounds of waits, in seconds: this table is the one place that says them.
TIMEOUTS = {
    "worker_start": 120.0,  # all training workers placed and running
    "regroup": 30.0,  # as many workers of an elastic training as there seems to be room for are placed
    "process_group": 300.0,  # one collective operation between training workers
    "trial_stop": 2700.0,  # a trial of a sweep that is stopped has taken its step and kept a checkpoint
    "aside": 7200.0,  # another process measures a checkpoint on the validation part
    "checkpoint": 1800.0,  # all workers' parts of a checkpoint are written, and agreed on
    "step": 900.0,  # one step of training and its batch; then a worker says where it stands, and ends
    "report": 300.0,  # all training workers tell Ray of the same checkpoint
    "worker_answer": 120.0,  # a training worker says that it is alive
    "desk": 120.0,  # what carries records from the first worker to the driver answers
    "next_batch": 300.0,  # the loader's thread has a batch ready
    "haplotypes": 3600.0,  # another process takes the haplotypes of a large panel out of its genotypes
    "remote_host": 20.0,  # the host of a remote source can be reached
    "remote_read": 30.0,  # a remote source or store sends its next bytes
    "remote_write": 600.0,  # an object of up to 64 MiB (tar shards: as large as asked for) is sent and acknowledged
    "remote_retry": 120.0,  # a request for a remote source or store that fails is made again
    "told": 30.0,  # TensorBoard, MLflow or W&B take the last records of a training that ends
    "cached_shard": 600.0,  # another process fetches a shard into the cache, or makes room there
}

__all__ = [
    "TIMEOUTS",
    "At",
    "Cluster",
    "Collection",
    "ContigRules",
    "Data",
    "Drawn",
    "File",
    "Finetune",
    "Homology",
    "Labelled",
    "Lengths",
    "Log",
    "MatrixTable",
    "Mixture",
    "Name",
    "Optimizer",
    "Personal",
    "Point",
    "Pool",
    "Positive",
    "Rate",
    "Range",
    "Recipe",
    "Regions",
    "Restarted",
    "Sample",
    "Section",
    "Sequences",
    "Split",
    "Sweep",
    "Track",
    "Train",
    "VariantsTable",
    "Weighted",
    "Windows",
    "check_lengths",
    "checked",
    "digest",
    "fitting_shards",
    "is_bed",
    "is_collection",
    "read",
    "source_name",
]
