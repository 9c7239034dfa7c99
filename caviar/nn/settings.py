"""What a recipe says about the network and the loss: the sections [model] and [loss]."""

from typing import Annotated, Any, Literal

from pydantic import Field

from caviar.core.settings import Auto, NoneWord, Settings

Width = Annotated[int, Field(ge=1, le=65_536)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Activation = Literal[
    "relu", "leaky_relu", "prelu", "elu", "selu", "gelu", "silu", "softplus", "maxout", "tanh", "sigmoid"
]
InitName = Literal[
    "auto",
    "zeros",
    "constant",
    "small_normal",
    "normal",
    "uniform",
    "xavier",
    "he",
    "lecun",
    "orthogonal",
    "random_walk",
    "data_dependent",
    "lsuv",
    "identity",
]
DropoutForm = Literal["inverted", "classic", "alpha", "dropconnect"]


class MLPSettings(Settings):
    """A multilayer perceptron: linear, norm, activation, dropout for each width; linear output."""

    name: Literal["mlp"] = "mlp"
    """the network's name"""
    widths: Auto | tuple[Width, ...] = "auto"
    """units of each hidden layer; auto: from the number of training rows and inputs"""
    activation: Activation = "relu"
    """relu, leaky_relu, prelu, elu, selu, gelu, silu, softplus, maxout, tanh or sigmoid"""
    maxout_pieces: Annotated[int, Field(ge=2, le=64)] = 2
    """linear pieces of a unit, for activation maxout only"""
    norm: Literal["none", "batch", "layer"] = "batch"
    """none, batch or layer normalisation before each activation"""
    dropout: Auto | Rate = "auto"
    """share of hidden units dropped while training (0 to below 1); auto: from the number of rows"""
    dropout_form: DropoutForm = "inverted"
    """inverted; classic (scales at test time); alpha (for selu); dropconnect (drops weights, not units)"""
    init: InitName = "auto"
    """initial weights: xavier, he, lecun, orthogonal, lsuv, ... (caviar.nn.INITIALISERS); auto: by the activation"""
    init_gain: Auto | Positive = "auto"
    """factor of the initial weights' standard deviation; auto: by initialiser and activation"""
    init_fan_mode: Auto | Literal["fan_in", "fan_out", "fan_avg"] = "auto"
    """what the initial weights' variance is divided by; auto: fan_in, for xavier fan_avg"""
    init_distribution: Auto | Literal["normal", "uniform"] = "auto"
    """shape of the random initial weights; auto: normal"""


class ConvNetSettings(Settings):
    """A small convolutional net: conv 3x3, norm, max pool 2, activation; then connected layers."""

    name: Literal["convnet"] = "convnet"
    """the network's name"""
    channels: tuple[Width, ...] = (16, 32, 64)
    """output channels of each block; each block halves height and width"""
    hidden: tuple[Width, ...] = ()
    """units of fully connected layers between the last block and the output"""
    activation: Activation = "relu"
    """relu, leaky_relu, prelu, elu, selu, gelu, silu, softplus, maxout, tanh or sigmoid"""
    maxout_pieces: Annotated[int, Field(ge=2, le=64)] = 2
    """linear pieces of a unit, for activation maxout only"""
    norm: Literal["none", "batch", "layer", "instance", "group"] = "batch"
    """none, batch, layer, instance or group normalisation after each convolution"""
    dropout: Rate = 0.2
    """share of inputs dropped before each fully connected layer while training (0 to below 1)"""
    dropout_form: DropoutForm = "inverted"
    """inverted; classic (scales at test time); alpha (for selu); dropconnect (drops weights, not units)"""
    spatial_dropout: Rate = 0.0
    """share of whole channels dropped after each block while training (0 to below 1)"""
    init: InitName = "auto"
    """initial weights: xavier, he, lecun, orthogonal, lsuv, ... (caviar.nn.INITIALISERS); auto: by the activation"""
    init_gain: Auto | Positive = "auto"
    """factor of the initial weights' standard deviation; auto: by initialiser and activation"""
    init_fan_mode: Auto | Literal["fan_in", "fan_out", "fan_avg"] = "auto"
    """what the initial weights' variance is divided by; auto: fan_in, for xavier fan_avg"""
    init_distribution: Auto | Literal["normal", "uniform"] = "auto"
    """shape of the random initial weights; auto: normal"""


class CodeSettings(Settings):
    """A network built by calling Python code; runs only behind --allow-code."""

    name: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """module.path:callable that returns an nn.Module"""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """keyword arguments of the call"""


class GivenSettings(Settings):
    """A module handed over from Python, and again to resume the run or to load its bundle."""

    name: Literal["given"] = "given"
    """the word for a module handed over from Python"""
    class_name: str
    """the module's class, for the error message when it is missing"""


ModelSettings = MLPSettings | ConvNetSettings | CodeSettings | GivenSettings


ClassWeights = NoneWord | Literal["balanced"] | tuple[NotNegative, ...]
NoSmoothing = Annotated[float, Field(ge=0, le=0)]


class AutoLossSettings(Settings):
    """The usual loss of the task: cross_entropy for classes, mean_squared_error for numbers."""

    name: Literal["auto"] = "auto"
    """auto: cross_entropy for classes, mean_squared_error for numbers"""
    label_smoothing: Rate = 0.0
    """share of the label's weight spread evenly over all classes (0 to below 1)"""
    class_weights: ClassWeights = "none"
    """none, balanced (inverse to the counts in train) or one weight for each class, in order"""


class CrossEntropySettings(Settings):
    """Softmax cross entropy: the usual loss for classes."""

    name: Literal["cross_entropy"] = "cross_entropy"
    """the loss's name"""
    label_smoothing: Rate = 0.0
    """share of the label's weight spread evenly over all classes (0 to below 1)"""
    class_weights: ClassWeights = "none"
    """none, balanced (inverse to the counts in train) or one weight for each class, in order"""


class HingeSettings(Settings):
    """Multiclass support vector loss (Weston and Watkins, 1999): scores with a margin, no probabilities."""

    name: Literal["hinge"] = "hinge"
    """the loss's name"""
    margin: Positive = 1.0
    """how much higher than any other the right class's score must be"""
    class_weights: ClassWeights = "none"
    """none, balanced (inverse to the counts in train) or one weight for each class, in order"""


class LogisticSettings(Settings):
    """Logistic loss: a sigmoid for each class, against the rest."""

    name: Literal["logistic"] = "logistic"
    """the loss's name"""
    class_weights: ClassWeights = "none"
    """none, balanced (inverse to the counts in train) or one weight for each class, in order"""


class MeanSquaredErrorSettings(Settings):
    """Mean squared error: the usual loss for numbers."""

    name: Literal["mean_squared_error"] = "mean_squared_error"
    """the loss's name"""
    label_smoothing: NoSmoothing = 0.0
    """0: there are no classes here (older recipes say it)"""


class HuberSettings(Settings):
    """Huber's loss: squared for small errors, linear for large ones, so that outliers pull less."""

    name: Literal["huber"] = "huber"
    """the loss's name"""
    delta: Positive = 1.0
    """where linear begins, in standard deviations of the target"""


LossSettings = Annotated[
    AutoLossSettings
    | CrossEntropySettings
    | HingeSettings
    | LogisticSettings
    | MeanSquaredErrorSettings
    | HuberSettings,
    Field(discriminator="name"),
]


class RegularizationSettings(Settings):
    """Penalties and limits on the weights (not on biases and norms), beside the model's dropout and weight decay."""

    l1: NotNegative = 0.0
    """factor of the sum of absolute weights (lasso): drives small weights to 0"""
    l2: NotNegative = 0.0
    """factor of half the sum of squared weights (ridge); with l1, the elastic net"""
    max_norm: Positive | NoneWord = "none"
    """the largest length of a unit's incoming weights, 3 or 4 with dropout; longer ones are scaled back each step"""
