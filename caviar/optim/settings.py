"""What a recipe says about the update rule and its learning rate: the sections [optimizer] and [schedule]."""

from typing import Annotated, Literal

from pydantic import Field

from caviar.core.settings import Auto, Settings

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Momentum = Annotated[float, Field(ge=0, lt=1)]


class SGDSettings(Settings):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"] = "sgd"
    """the update rule's name"""
    learning_rate: Auto | Positive = "auto"
    """step size, usually 0.001 to 0.5; auto: 0.05 for caviar's networks, 0.01 for a module of your own"""
    momentum: Momentum = 0.9
    """share of the last step carried on (0 to below 1)"""
    nesterov: bool = False
    """look ahead along the momentum before taking the gradient"""
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


OptimizerSettings = Annotated[SGDSettings | AdamSettings | AdamWSettings, Field(discriminator="name")]


class ConstantSettings(Settings):
    """The learning rate stays as it is."""

    name: Literal["constant"] = "constant"
    """the schedule's name"""


class CosineSettings(Settings):
    """From the learning rate to `final` times it along half a cosine (Loshchilov and Hutter, 2017)."""

    name: Literal["cosine"] = "cosine"
    """the schedule's name"""
    final: Annotated[float, Field(ge=0, le=1)] = 0.0
    """learning rate at the last step, as a share of the first"""


ScheduleSettings = Annotated[ConstantSettings | CosineSettings, Field(discriminator="name")]
