"""Networks, their layers' starting values, losses, and what can be said about any nn.Module."""

from caviar.nn.activation_facts import ACTIVATION_FACTS, ActivationFacts, activation_facts
from caviar.nn.activations import ACTIVATIONS, Maxout, MaxoutLinear, build_activation
from caviar.nn.build import build_model
from caviar.nn.build_loss import Loss, build_loss, resolve_loss
from caviar.nn.checks import check_outputs
from caviar.nn.code import load_callable
from caviar.nn.convnet import ConvNet
from caviar.nn.dropout import (
    DropConnectLinear,
    Dropout,
    MonteCarlo,
    drop_connect,
    dropout,
    monte_carlo_predict,
)
from caviar.nn.layout import has_batch_norm, has_convolutions, use_channels_last
from caviar.nn.losses import (
    LOSSES,
    balanced_class_weights,
    class_log_probabilities,
    cross_entropy,
    hinge,
    huber,
    logistic,
    mean_squared_error,
)
from caviar.nn.mlp import MLP, ColumnEmbeddings, embedding_size
from caviar.nn.summary import LayerSummary, count_parameters, summarise

__all__ = [
    "ACTIVATIONS",
    "ACTIVATION_FACTS",
    "LOSSES",
    "MLP",
    "ActivationFacts",
    "ColumnEmbeddings",
    "ConvNet",
    "DropConnectLinear",
    "Dropout",
    "LayerSummary",
    "Loss",
    "Maxout",
    "MaxoutLinear",
    "MonteCarlo",
    "activation_facts",
    "balanced_class_weights",
    "build_activation",
    "build_loss",
    "build_model",
    "check_outputs",
    "class_log_probabilities",
    "count_parameters",
    "cross_entropy",
    "drop_connect",
    "dropout",
    "embedding_size",
    "has_batch_norm",
    "has_convolutions",
    "hinge",
    "huber",
    "load_callable",
    "logistic",
    "mean_squared_error",
    "monte_carlo_predict",
    "resolve_loss",
    "summarise",
    "use_channels_last",
]
