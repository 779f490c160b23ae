"""The demo: a model for each language of the bundled pieces, and settings that suit these."""

from __future__ import annotations

from typing import Any, NamedTuple

from minibrillm.checks import Settings
from minibrillm.presets.fitted import for_vocabulary


class Demo(NamedTuple):
    """What the demo does with the pieces in one language."""

    language: str
    share: float  # of the time for all languages
    settings: dict[str, Any]  # of `TrainConfig`
    beginning: str  # of a piece that is then written


# Chosen on the validation split. The decay is strong for Chinese, which has a thousand nodes to
# learn from the same pieces.
DEMO: dict[str, Demo] = {
    "zh": Demo("Chinese", 0.7, {"batch_size": 32, "weight_decay": 6.0}, "一天早上"),
    "en": Demo("English", 0.3, {"batch_size": 128, "weight_decay": 1.0}, "One morning"),
}


def for_demo(language: str, n_nodes: int, config: Settings, training: Settings) -> Settings:
    """The share of a training that one language gets ("zh" or "en"), with settings that suit it.

    Parameters
    ----------
    n_nodes : int
        V.
    config : ModelConfig
        Of the model, which stays as it is.
    training : TrainConfig
        Its ``minutes``, if any, are for all languages together.
    """
    share, settings = DEMO[language].share, dict(DEMO[language].settings)
    if training.minutes is not None:
        settings["minutes"] = share * training.minutes
    training = training.replace(**settings)
    _, training = for_vocabulary(n_nodes, config, training, config.d_node, training.batch_size)
    return training
