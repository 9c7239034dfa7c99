"""What a recipe says about the loop: the section [training]."""

from typing import Annotated, Literal

from pydantic import Field

from caviar.core.settings import Auto, NoneWord, Settings

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class TrainingSettings(Settings):
    """How long, in what portions, and when to stop."""

    epochs: Auto | Count = "auto"
    """passes over the training examples; auto: from their number"""
    batch_size: Auto | Count = "auto"
    """examples a step; auto: from their number"""
    metric: Literal["auto", "loss", "accuracy", "r2"] = "auto"
    """what picks the best epoch on dev; auto: loss"""
    patience: Auto | Count | NoneWord = "auto"
    """early stopping: epochs without a better dev metric; none: never; auto: a third of them, at least 10"""
    clip_norm: Positive | NoneWord = "none"
    """the largest norm of the whole gradient; larger ones are scaled down to it"""
    care: bool = False
    """when findings appear, go back to the last good state, try their remedies and go on with the one that helps"""
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 10.0
    """the least time between two routine checkpoints; 0 saves after every epoch"""
