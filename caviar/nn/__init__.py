"""Networks, their layers' starting values, losses, and what can be said about any nn.Module."""

from caviar.nn.activation_facts import ACTIVATION_FACTS, ActivationFacts, activation_facts
from caviar.nn.activations import ACTIVATIONS, Maxout, MaxoutLinear, build_activation
from caviar.nn.batch_norm_tools import FoldReport, drop_cancelled_biases, fold_batch_norm, keeps_statistics, recalibrate
from caviar.nn.build import adapt_model, build_model, looks_at_data
from caviar.nn.build_loss import Loss, build_loss, resolve_loss
from caviar.nn.checks import check_outputs
from caviar.nn.code import load_callable
from caviar.nn.convnet import ConvNet
from caviar.nn.data_initialisers import data_dependent, lsuv
from caviar.nn.dropout import (
    DropConnectLinear,
    Dropout,
    MonteCarlo,
    drop_connect,
    dropout,
    has_dropout,
    monte_carlo_predict,
)
from caviar.nn.fans import fan_in_and_fan_out
from caviar.nn.gradient_check import EntryCheck, GradientReport, ParameterCheck, check_gradients
from caviar.nn.graph import zero_residual_ends
from caviar.nn.initialise import initialise, resolve_init
from caviar.nn.initialisers import INITIALISERS
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
from caviar.nn.member_norms import (
    MembersBatchNorm,
    batch_moments,
    members_batch_norm,
    members_group_norm,
    members_layer_norm,
    weighted_batch_norm,
)
from caviar.nn.mlp import MLP, ColumnEmbeddings, embedding_size
from caviar.nn.regularise import (
    Regularizer,
    add_penalty_gradients,
    build_regularizer,
    elastic_net_penalty,
    l1_penalty,
    l2_penalty,
    limit_norms,
    regularised_weights,
)
from caviar.nn.statistics import ActivationStatistics, activation_statistics
from caviar.nn.summary import LayerSummary, count_parameters, summarise

__all__ = [
    "ACTIVATIONS",
    "ACTIVATION_FACTS",
    "INITIALISERS",
    "LOSSES",
    "MLP",
    "ActivationFacts",
    "ActivationStatistics",
    "ColumnEmbeddings",
    "ConvNet",
    "DropConnectLinear",
    "Dropout",
    "EntryCheck",
    "FoldReport",
    "GradientReport",
    "LayerSummary",
    "Loss",
    "Maxout",
    "MaxoutLinear",
    "MembersBatchNorm",
    "MonteCarlo",
    "ParameterCheck",
    "Regularizer",
    "activation_facts",
    "activation_statistics",
    "adapt_model",
    "add_penalty_gradients",
    "balanced_class_weights",
    "batch_moments",
    "build_activation",
    "build_loss",
    "build_model",
    "build_regularizer",
    "check_gradients",
    "check_outputs",
    "class_log_probabilities",
    "count_parameters",
    "cross_entropy",
    "data_dependent",
    "drop_cancelled_biases",
    "drop_connect",
    "dropout",
    "elastic_net_penalty",
    "embedding_size",
    "fan_in_and_fan_out",
    "fold_batch_norm",
    "has_batch_norm",
    "has_convolutions",
    "has_dropout",
    "hinge",
    "huber",
    "initialise",
    "keeps_statistics",
    "l1_penalty",
    "l2_penalty",
    "limit_norms",
    "load_callable",
    "logistic",
    "looks_at_data",
    "lsuv",
    "mean_squared_error",
    "members_batch_norm",
    "members_group_norm",
    "members_layer_norm",
    "monte_carlo_predict",
    "recalibrate",
    "regularised_weights",
    "resolve_init",
    "resolve_loss",
    "summarise",
    "use_channels_last",
    "weighted_batch_norm",
    "zero_residual_ends",
]
