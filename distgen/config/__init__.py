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
from distgen.config.track import Track
from distgen.config.training import Cluster, Finetune, Log, Optimizer, Rate, Train, fitting_shards
from distgen.config.windows import At, Lengths, Personal, Pool, Regions, Sample, Windows, check_lengths

# The bounds of waits, in seconds: this table is the one place that says them.
TIMEOUTS = {
    "worker_start": 120.0,  # all training workers placed and running
    "process_group": 300.0,  # one collective operation between training workers
    "step": 900.0,  # one step of training and its batch; then a worker says where it stands, and ends
