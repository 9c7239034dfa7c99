"""The names of this room's components with one line each, as plain data: what a recipe can say, and where."""

from typing import Final

ACTIVATIONS: Final = {
    "relu": "max(0, z): the first choice",
    "leaky_relu": "relu with slope 0.01 below 0, so that no unit dies",
    "prelu": "relu with a learned slope below 0",
    "elu": "e^z - 1 below 0: means nearer to 0, for nets without norms",
    "selu": "scaled elu that keeps mean 0 and variance 1; with dropout_form alpha",
    "gelu": "z Phi(z), the transformers' choice",
    "silu": "z sigmoid(z), also called Swish",
    "softplus": "log(1 + e^z), always positive",
    "maxout": "the largest of maxout_pieces linear pieces",
    "tanh": "between -1 and 1, centred",
    "sigmoid": "between 0 and 1: for gates and probabilities",
}

INITIALISERS: Final = {
    "auto": "what suits the activation: he, xavier or lecun",
    "zeros": "all 0: units stay equal, to show what goes wrong",
    "constant": "all the same number",
    "small_normal": "normal with standard deviation 0.01",
    "normal": "normal with standard deviation init_gain",
    "uniform": "uniform between -init_gain and init_gain",
    "xavier": "variance 2 / (fan_in + fan_out) (Glorot and Bengio, 2010): for tanh and sigmoid",
    "he": "variance 2 / fan_in (He et al., 2015): for relu and its relatives",
    "lecun": "variance 1 / fan_in (LeCun et al., 1998): for selu",
    "orthogonal": "random orthogonal matrices (Saxe et al., 2013)",
    "random_walk": "he with a correction for very deep, narrow nets (Sussillo and Abbott, 2014)",
    "data_dependent": "each unit's outputs get mean 0 and deviation 1 on a batch (Krähenbühl et al., 2015)",
    "lsuv": "orthogonal, each layer's outputs get variance 1 on a batch (Mishkin and Matas, 2015)",
    "identity": "each output is the input of its number",
}

NORMS: Final = {
    "none": "no normalisation",
    "batch": "over the examples of a batch (Ioffe and Szegedy, 2015)",
    "layer": "over the features of an example (Ba et al., 2016)",
    "instance": "over the pixels of each channel of an example (Ulyanov et al., 2016); convnet only",
    "group": "over pixels and groups of channels of an example (Wu and He, 2018); convnet only",
}

DROPOUTS: Final = {
    "inverted": "units are dropped and the others scaled up while training",
    "classic": "units are dropped while training, and all scaled down at test time",
    "alpha": "for selu: units are set to its lower limit, mean and variance kept",
    "dropconnect": "weights are dropped instead of units (Wan et al., 2013)",
}

LOSSES: Final = {
    "auto": "cross_entropy for classes, mean_squared_error for numbers",
    "cross_entropy": "softmax cross entropy, with label_smoothing and class_weights",
    "hinge": "multiclass support vector loss with a margin (Weston and Watkins, 1999)",
    "logistic": "a sigmoid for each class, against the rest",
    "mean_squared_error": "squared errors",
    "huber": "squared for small errors, linear beyond delta",
}

REGULARIZERS: Final = {
    "l1": "penalty on absolute weights (lasso)",
    "l2": "penalty on squared weights (ridge); with l1 the elastic net",
    "max_norm": "the largest length of a unit's incoming weights",
}

CATALOGUE: Final[dict[str, dict[str, str]]] = {
    "model.activation": ACTIVATIONS,
    "model.init": INITIALISERS,
    "model.norm": NORMS,
    "model.dropout_form": DROPOUTS,
    "loss.name": LOSSES,
    "regularization": REGULARIZERS,
}
"""Recipe key (or section) -> name -> one line."""
