"""Networks, their layers' starting values, losses, and what can be said about any nn.Module."""

from caviar.nn.activations import ACTIVATIONS
from caviar.nn.build import build_model
from caviar.nn.checks import check_outputs
from caviar.nn.code import load_callable
from caviar.nn.convnet import ConvNet
from caviar.nn.layout import has_batch_norm, has_convolutions, use_channels_last
from caviar.nn.losses import Loss, build_loss, cross_entropy, mean_squared_error, resolve_loss
from caviar.nn.mlp import MLP, ColumnEmbeddings, embedding_size
from caviar.nn.summary import LayerSummary, count_parameters, summarise

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "ColumnEmbeddings",
    "ConvNet",
    "LayerSummary",
    "Loss",
    "build_loss",
    "build_model",
    "check_outputs",
    "count_parameters",
    "cross_entropy",
    "embedding_size",
    "has_batch_norm",
    "has_convolutions",
    "load_callable",
    "mean_squared_error",
    "resolve_loss",
    "summarise",
    "use_channels_last",
]
