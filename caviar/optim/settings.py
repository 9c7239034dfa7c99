"""What a recipe says about the update rule: the section [optimizer]; of [schedule] and [average] the names."""

from typing import Annotated, Literal, get_args

from pydantic import Field

from caviar.core.settings import Auto, Settings
from caviar.optim.average_settings import AverageSettings as AverageSettings
from caviar.optim.average_settings import NoAverageSettings as NoAverageSettings
from caviar.optim.schedule_settings import ConstantSettings as ConstantSettings
from caviar.optim.schedule_settings import CosineSettings as CosineSettings
from caviar.optim.schedule_settings import ScheduleSettings as ScheduleSettings

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class SGDSettings(Settings):
    """Stochastic gradient descent, with momentum or Nesterov's momentum."""

    name: Literal["sgd"] = "sgd"
    """the update rule's name"""
    learning_rate: Auto | Positive = "auto"
    """step size, usually 0.001 to 0.5; auto: 0.05 for caviar's networks, 0.01 for a module of your own"""
    momentum: Momentum = 0.9
    """share of the last step carried on (0 to below 1)"""
    nesterov: bool = False
    """look ahead along the momentum before taking the gradient"""
    rate_in_velocity: bool = False
    """the form v = momentum v - rate g, w += v: after a change of rate, what is gathered keeps the old one"""
    weight_decay: NotNegative = 0.0
    """L2 penalty's factor, added to the gradient of weights (not of biases and norms)"""


class AdamSettings(Settings):
    """Adam (Kingma and Ba, 2015); weight decay is an L2 penalty on the gradient."""

    name: Literal["adam"] = "adam"
    """the update rule's name"""
    learning_rate: Auto | Positive = "auto"
    """step size, usually 0.0001 to 0.01; auto: 0.003 for caviar's networks, 0.001 for a module of your own"""
    betas: tuple[Momentum, Momentum] = (0.9, 0.999)
    """decay of the running mean of gradients and of their squares"""
    eps: Positive = 1e-8
    """added to the root of the mean square"""
    weight_decay: NotNegative = 0.0
    """L2 penalty's factor, added to the gradient of weights (not of biases and norms)"""
    bias_correction: bool = True
    """undo that the running means begin at zero"""


class AdamWSettings(Settings):
    """AdamW (Loshchilov and Hutter, 2019): Adam with decoupled weight decay."""

    name: Literal["adamw"] = "adamw"
    """the update rule's name"""
    learning_rate: Auto | Positive = "auto"
    """step size, usually 0.0001 to 0.01; auto: 0.003 for caviar's networks, 0.001 for a module of your own"""
    betas: tuple[Momentum, Momentum] = (0.9, 0.999)
    """decay of the running mean of gradients and of their squares"""
    eps: Positive = 1e-8
    """added to the root of the mean square"""
    weight_decay: NotNegative = 0.01
    """each step shrinks weights (not biases and norms) by learning_rate times this"""


class AdaGradSettings(Settings):
    """AdaGrad (Duchi, Hazan and Singer, 2011): each rate falls with the sum of all squared gradients."""

    name: Literal["adagrad"] = "adagrad"
    """the update rule's name"""
    learning_rate: Auto | Positive = "auto"
    """step size, usually 0.001 to 0.1; auto: 0.01"""
    eps: Positive = 1e-10
    """added to the root of the sum of squares"""
    weight_decay: NotNegative = 0.0
    """L2 penalty's factor, added to the gradient of weights (not of biases and norms)"""


class RMSPropSettings(Settings):
    """RMSProp (Tieleman and Hinton, 2012): gradients divided by the root of their mean square."""

    name: Literal["rmsprop"] = "rmsprop"
    """the update rule's name"""
    learning_rate: Auto | Positive = "auto"
    """step size, usually 0.0001 to 0.01; auto: 0.001"""
    decay: Momentum = 0.99
    """decay of the running mean of squares (0 to below 1)"""
    eps: Positive = 1e-8
    """added to the root of the mean square"""
    momentum: Momentum = 0.0
    """share of the last step carried on (0 to below 1)"""
    centered: bool = False
    """divide by the standard deviation: take the mean gradient's square from the mean square"""
    weight_decay: NotNegative = 0.0
    """L2 penalty's factor, added to the gradient of weights (not of biases and norms)"""


class NAdamSettings(Settings):
    """NAdam (Dozat, 2016): Adam with Nesterov's momentum."""

    name: Literal["nadam"] = "nadam"
    """the update rule's name"""
    learning_rate: Auto | Positive = "auto"
    """step size, usually 0.0001 to 0.01; auto: 0.003 for caviar's networks, 0.001 for a module of your own"""
    betas: tuple[Momentum, Momentum] = (0.9, 0.999)
    """decay of the running mean of gradients and of their squares"""
    eps: Positive = 1e-8
    """added to the root of the mean square"""
    momentum_decay: NotNegative = 0.004
    """how fast momentum rises to betas[0]: mu = betas[0] (1 - 0.96^(t momentum_decay) / 2)"""
    weight_decay: NotNegative = 0.0
    """L2 penalty's factor, added to the gradient of weights (not of biases and norms)"""


class RAdamSettings(Settings):
    """RAdam (Liu et al., 2020): Adam held back while little is known of the squares; needs no warm-up."""

    name: Literal["radam"] = "radam"
    """the update rule's name"""
    learning_rate: Auto | Positive = "auto"
    """step size, usually 0.0001 to 0.01; auto: 0.003 for caviar's networks, 0.001 for a module of your own"""
    betas: tuple[Momentum, Momentum] = (0.9, 0.999)
    """decay of the running mean of gradients and of their squares"""
    eps: Positive = 1e-8
    """added to the root of the mean square"""
    weight_decay: NotNegative = 0.0
    """L2 penalty's factor, added to the gradient of weights (not of biases and norms)"""


class RangerSettings(Settings):
    """Ranger (Wright, 2019): RAdam with Lookahead around it."""

    name: Literal["ranger"] = "ranger"
    """the update rule's name"""
    learning_rate: Auto | Positive = "auto"
    """step size, usually 0.0001 to 0.01; auto: 0.003 for caviar's networks, 0.001 for a module of your own"""
    betas: tuple[Momentum, Momentum] = (0.95, 0.999)
    """decay of the running mean of gradients and of their squares"""
    eps: Positive = 1e-5
    """added to the root of the mean square"""
    weight_decay: NotNegative = 0.0
    """each step shrinks weights (not biases and norms) by learning_rate times this"""
    period: Count = 6
    """steps between two moves of the slow weights"""
    alpha: Share = 0.5
    """share of the way that the slow weights go"""


class LookaheadSettings(Settings):
    """Lookahead (Zhang et al., 2019) around another rule: slow weights follow its fast ones."""

    name: Literal["lookahead"] = "lookahead"
    """the update rule's name"""
    rule: Literal["sgd", "adagrad", "rmsprop", "adam", "adamw", "nadam", "radam", "lion"] = "adamw"
    """the rule inside, with its usual values for what is not set here"""
    learning_rate: Auto | Positive = "auto"
    """step size of the rule inside; auto: as for that rule"""
    weight_decay: NotNegative = 0.0
    """the weight decay of the rule inside, in that rule's own sense"""
    period: Count = 5
    """steps between two moves of the slow weights"""
    alpha: Share = 0.5
    """share of the way that the slow weights go"""


class LionSettings(Settings):
    """Lion (Chen et al., 2023): every weight moves by the learning rate, by the sign of a mean gradient."""

    name: Literal["lion"] = "lion"
    """the update rule's name"""
    learning_rate: Auto | Positive = "auto"
    """step size, a third to a tenth of Adam's; auto: 0.0005 for caviar's networks, 0.0001 for a module of your own"""
    betas: tuple[Momentum, Momentum] = (0.9, 0.99)
    """weight of the running mean in the sign, and its decay"""
    weight_decay: NotNegative = 0.0
    """each step shrinks weights (not biases and norms) by learning_rate times this"""


class MuonSettings(Settings):
    """Muon (Jordan et al., 2024): orthogonalised momentum for hidden weights, AdamW for the rest."""

    name: Literal["muon"] = "muon"
    """the update rule's name"""
    learning_rate: Auto | Positive = "auto"
    """step size, usually that of AdamW; auto: 0.003 for caviar's networks, 0.001 for a module of your own"""
    momentum: Momentum = 0.95
    """decay of the running mean of gradients"""
    nesterov: bool = True
    """mix the present gradient in once more"""
    num_iterations: Annotated[int, Field(ge=1, le=20)] = 5
    """Newton-Schulz iterations"""
    weight_decay: NotNegative = 0.01
    """each step shrinks weights (not biases and norms) by learning_rate times this"""
    betas: tuple[Momentum, Momentum] = (0.9, 0.999)
    """AdamW's decays, for first and last layers, biases and norms"""


class LBFGSSettings(Settings):
    """L-BFGS with line search (Liu and Nocedal, 1989): for small smooth problems in one batch."""

    name: Literal["lbfgs"] = "lbfgs"
    """the update rule's name"""
    learning_rate: Auto | Positive = "auto"
    """first step length that the line search tries; auto: 1"""
    max_iterations: Count = 20
    """iterations of each step"""
    history: Count = 10
    """steps from which the curvature is estimated"""
    line_search: bool = True
    """search for a step that meets the strong Wolfe conditions"""


class NewtonSettings(Settings):
    """Newton's method by conjugate gradients (Martens, 2010): for small smooth problems in one batch."""

    name: Literal["newton"] = "newton"
    """the update rule's name"""
    learning_rate: Auto | Positive = "auto"
    """step length that is tried first; auto: 1"""
    damping: NotNegative = 0.001
    """added to the diagonal of the curvature; larger is safer and slower"""
    max_iterations: Count = 100
    """of conjugate gradients, in each step"""
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 1e-6
    """conjugate gradients end when the residual is this share of the gradient"""
    curvature: Literal["hessian", "gauss_newton"] = "gauss_newton"
    """hessian: the loss's own; gauss_newton: without the network's bends, never negative for convex losses"""
    line_search: bool = True
    """halve a step until the loss falls as it should"""


OptimizerSettings = Annotated[
    SGDSettings
    | AdamSettings
    | AdamWSettings
    | AdaGradSettings
    | RMSPropSettings
    | NAdamSettings
    | RAdamSettings
    | RangerSettings
    | LookaheadSettings
    | LionSettings
    | MuonSettings
    | LBFGSSettings
    | NewtonSettings,
    Field(discriminator="name"),
]

LEARNING_RATES: dict[str, tuple[float, float]] = {
    "sgd": (0.05, 0.01),
    "adagrad": (0.01, 0.01),
    "rmsprop": (0.001, 0.001),
    "lion": (0.0005, 0.0001),
    "lbfgs": (1.0, 1.0),
    "newton": (1.0, 1.0),
}
"""What "auto" comes to for caviar's networks, and for a module of one's own; other rules: that of Adam."""

ADAM_RATES = (0.003, 0.001)


def default_learning_rate(settings: OptimizerSettings, *, own_network: bool) -> float:
    """Return the learning rate that "auto" stands for; own_network: one of caviar's, whose scale is known."""
    name = settings.rule if isinstance(settings, LookaheadSettings) else settings.name
    return LEARNING_RATES.get(name, ADAM_RATES)[0 if own_network else 1]


def described(union: object) -> dict[str, str]:
    """Return name -> first line of the description, for every member of a union of settings."""
    kinds: tuple[type[Settings], ...] = get_args(get_args(union)[0])
    return {kind.model_fields["name"].default: (kind.__doc__ or "").splitlines()[0] for kind in kinds}


OPTIMIZERS: dict[str, str] = described(OptimizerSettings)
"""Every update rule's name in a recipe, with one line about it."""

SCHEDULES: dict[str, str] = described(ScheduleSettings)
"""Every schedule's name in a recipe, with one line about it."""

AVERAGES: dict[str, str] = described(AverageSettings)
"""Every running average of the weights by its name in a recipe, with one line about it."""
