"""What a recipe says about the learning rate's course: the section [schedule].

Points in time are whole epochs (an integer) or shares of the run (a fraction between 0 and 1).
"""

from typing import Annotated, Literal

from pydantic import Field

from caviar.core.settings import NoneWord, Settings

Factor = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
FromZeroToOne = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Times = tuple[Count | Share, ...]


class WarmUp(Settings):
    """What every schedule has: its name, and a rise before it begins."""

    name: str
    """the schedule's name"""
    warmup: NoneWord | Count | Share = "none"
    """how long the rate rises first: steps, or a share of the run"""
    warmup_start: Factor = 0.01
    """the rate of the first step, as a share of the one the rise leads to"""
    warmup_kind: Literal["linear", "exponential"] = "linear"
    """the shape of the rise"""


class ConstantSettings(WarmUp):
    """The learning rate stays as it is."""

    name: Literal["constant"] = "constant"
    """the schedule's name"""


class StepSettings(WarmUp):
    """The learning rate drops by a factor after every so many epochs."""

    name: Literal["step"] = "step"
    """the schedule's name"""
    every: Count | Share = 0.33
    """epochs between two drops, or a share of the run"""
    factor: Factor = 0.1
    """what the rate is multiplied by"""


class StaircaseSettings(WarmUp):
    """The learning rate drops by a factor at each of the times that are listed."""

    name: Literal["staircase"] = "staircase"
    """the schedule's name"""
    milestones: Times = (0.5, 0.75)
    """when it drops: epochs, or shares of the run"""
    factor: Factor = 0.1
    """what the rate is multiplied by"""


class ExponentialSettings(WarmUp):
    """The learning rate is multiplied by the same factor each epoch: rate^epoch, or e^(-k t)."""

    name: Literal["exponential"] = "exponential"
    """the schedule's name"""
    rate: Factor = 0.95
    """the factor of an epoch"""
    k: NotNegative | NoneWord = "none"
    """the constant of e^(-k t), t in epochs; takes the place of rate, which then is e^-k"""
    whole_epochs: bool = True
    """fall between epochs only"""


class InverseTimeSettings(WarmUp):
    """The learning rate is divided by 1 + decay_rate * epoch."""

    name: Literal["inverse_time"] = "inverse_time"
    """the schedule's name"""
    decay_rate: NotNegative = 1.0
    """1: half after the first epoch, a third after the second"""
    whole_epochs: bool = True
    """fall between epochs only"""


class InverseSqrtSettings(WarmUp):
    """The learning rate is divided by the root of the time, counted from 1."""

    name: Literal["inverse_sqrt"] = "inverse_sqrt"
    """the schedule's name"""
    unit: Literal["step", "epoch"] = "epoch"
    """what the time is counted in"""


class LinearSettings(WarmUp):
    """From the learning rate to `final` times it along a straight line."""

    name: Literal["linear"] = "linear"
    """the schedule's name"""
    final: FromZeroToOne = 0.0
    """learning rate at the last step, as a share of the first"""


class CosineSettings(WarmUp):
    """From the learning rate to `final` times it along half a cosine (Loshchilov and Hutter, 2017)."""

    name: Literal["cosine"] = "cosine"
    """the schedule's name"""
    final: FromZeroToOne = 0.0
    """learning rate at the last step, as a share of the first"""


class CosineRestartsSettings(WarmUp):
    """Half cosines, each longer than the one before it (SGDR; Loshchilov and Hutter, 2017)."""

    name: Literal["cosine_restarts"] = "cosine_restarts"
    """the schedule's name"""
    period: Count | Share = 0.15
    """length of the first: epochs, or a share of the run"""
    multiplier: Count = 2
    """how many times as long each is as the one before"""
    final: FromZeroToOne = 0.0
    """the rate that each falls towards, as a share of the learning rate"""


class PolynomialSettings(WarmUp):
    """From the learning rate to `final` times it along a power of what remains."""

    name: Literal["polynomial"] = "polynomial"
    """the schedule's name"""
    power: Annotated[float, Field(gt=0)] = 2.0
    """1 is a straight line; larger falls faster at first"""
    final: FromZeroToOne = 0.0
    """learning rate at the last step, as a share of the first"""


class OneCycleSettings(WarmUp):
    """Up to the learning rate and far down again, in one cycle (Smith and Topin, 2018)."""

    name: Literal["one_cycle"] = "one_cycle"
    """the schedule's name"""
    rise: Share = 0.3
    """share of the run in which the rate rises"""
    start_divisor: Annotated[float, Field(ge=1)] = 25.0
    """the first rate is the learning rate divided by this"""
    final_divisor: Annotated[float, Field(ge=1)] = 1e4
    """the last rate is the first divided by this"""
    shape: Literal["linear", "cosine"] = "cosine"
    """the shape of rise and fall"""
    low_momentum: Annotated[float, Field(ge=0, lt=1)] | NoneWord = "none"
    """momentum (or betas[0]) falls to this as the rate rises, and comes back; none: it stays as it is"""


class PiecewiseSettings(WarmUp):
    """By hand: the learning rate times a factor for each stretch of the run."""

    name: Literal["piecewise"] = "piecewise"
    """the schedule's name"""
    boundaries: Times = (0.5, 0.75)
    """where the next stretch begins: epochs, or shares of the run"""
    factors: tuple[NotNegative, ...] = (1.0, 0.1, 0.01)
    """one for each stretch, so one more than boundaries"""
    interpolate: bool = False
    """straight lines instead of stairs"""


class PlateauSettings(WarmUp):
    """The learning rate drops by a factor when the dev metric no longer improves."""

    name: Literal["plateau"] = "plateau"
    """the schedule's name"""
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """what the rate is multiplied by"""
    patience: Annotated[int, Field(ge=0)] = 5
    """epochs without improvement that are borne before a drop"""
    threshold: NotNegative = 1e-4
    """what counts as better: by this share of a loss, by this much of an accuracy or r2"""
    cooldown: Annotated[int, Field(ge=0)] = 0
    """epochs after a drop that do not count"""
    minimum: FromZeroToOne = 0.0
    """the smallest rate, as a share of the learning rate"""


ScheduleSettings = Annotated[
    ConstantSettings
    | StepSettings
    | StaircaseSettings
    | ExponentialSettings
    | InverseTimeSettings
    | InverseSqrtSettings
    | LinearSettings
    | CosineSettings
    | CosineRestartsSettings
    | PolynomialSettings
    | OneCycleSettings
    | PiecewiseSettings
    | PlateauSettings,
    Field(discriminator="name"),
]
