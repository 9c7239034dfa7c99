"""What a recipe says about running averages of the weights: the section [average]."""

from typing import Annotated, Literal

from pydantic import Field

from caviar.core.settings import Settings

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, lt=1)]


class NoAverageSettings(Settings):
    """The weights themselves are judged on dev and handed over."""

    name: Literal["none"] = "none"
    """the average's name"""


class EMASettings(Settings):
    """Exponential moving average of the weights; like every average, what dev judges and the bundle holds."""

    name: Literal["ema"] = "ema"
    """the average's name"""
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """share of the old average that is kept at each update: it looks back over about 1 / (1 - decay) of them"""
    warm_up: bool = True
    """at update t keep at most (1 + t) / (10 + t), so that the first weights are soon forgotten"""
    every: Count = 1
    """steps between two updates"""


class SWASettings(Settings):
    """Stochastic weight averaging: the mean of the weights after each late epoch (Izmailov et al., 2018)."""

    name: Literal["swa"] = "swa"
    """the average's name"""
    start: Annotated[int, Field(ge=0)] | Share = 0.75
    """when it begins: epochs, or a share of the run, with a learning rate that stays up (schedule constant or final)"""
    every: Count = 1
    """epochs between two updates"""


AverageSettings = Annotated[NoAverageSettings | EMASettings | SWASettings, Field(discriminator="name")]
