import pytest

from distgen.objectives.base_classes import BaseClassesConfig
from distgen.objectives.classes import ClassesConfig
from distgen.objectives.multilabel import MultilabelConfig


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (BaseClassesConfig, {"kind": "base_classes", "track": "genes"}),
        (ClassesConfig, {"kind": "classes"}),
        (MultilabelConfig, {"kind": "binary"}),
    ],
)
def test_a_focal_power_without_a_finite_gradient_is_refused(config, options):
    for power in (0.0, 1.0, 2.5):
        assert config(focal=power, **options).focal == power
    with pytest.raises(
        ValueError, match=r"focal\n.*0.5 has no finite gradient where a model is sure. Use 0, or 1 and more"
    ):
        config(focal=0.5, **options)
