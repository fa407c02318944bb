"""A small model of each family."""

import torch

from distgen import models

SMALL = {
    "cnn": {"channels": (8, 8), "widths": (5, 3), "pools": (2, 2), "hidden": 8},
    "dilated": {"channels": 8, "dilations": (1, 2)},
    "hopfield": {"channels": 8, "dim": 8, "heads": 2, "hidden": 8},
    "mlp": {"hidden": (8,)},
    "recurrent": {"channels": 8, "size": 8},
    "transformer": {"channels": 8, "pool": 4, "dim": 16, "depth": 1, "heads": 2},
}
KINDS = {name: kind for kind in models.FAMILIES for name in kind.model_fields["family"].annotation.__args__}


def built(name, sizes, schema):
    kind = KINDS[name]
    torch.manual_seed(0)
    return models.build(kind(family=name, **SMALL.get(name, {}), **sizes), schema).eval()
