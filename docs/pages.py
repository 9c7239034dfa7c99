"""Which page of the reference tells of what."""

from typing import NamedTuple


class Page(NamedTuple):
    """One page: name of its file, title, opening words, the recipe's families and sections on it, and Python names.

    sections: "model.mlp" is a section with a name, "augment" one without; "schedule.*" all names of a section.
    names: dotted below caviar; "optim.schedules.*" stands for all public functions of a module.
    """

    name: str
    title: str
    opening: str
    families: tuple[str, ...]
    sections: tuple[str, ...]
    names: tuple[str, ...]


def _under(prefix: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{prefix}.{name}" for name in names)


PAGES = (
    Page(
        "networks",
        "Networks",
        "A recipe names one of caviar's networks, or code of yours that builds one; in Python any `nn.Module` trains.",
        ("model.name",),
        ("model.mlp", "model.convnet", "model.module.path:callable", "model.given"),
        _under("nn", "MLP", "ColumnEmbeddings", "embedding_size", "ConvNet", "build_model", "load_callable",
               "check_outputs", "summarise", "LayerSummary", "count_parameters", "has_batch_norm", "has_convolutions",
               "has_dropout", "use_channels_last"),
    ),
    Page(
        "activations",
        "Activations",
        "The activation stands in `model.activation`. torch has most of them as modules; `build_activation` makes any "
        "by name, and `activation_facts` tells what is known of it.",
        ("model.activation",),
        (),
        _under("nn", "activation_facts", "ActivationFacts", "build_activation", "Maxout", "MaxoutLinear"),
    ),
    Page(
        "initialisers",
        "Initial weights",
        "The initialiser stands in `model.init`. Every function here fills a weight in place: "
        '`he(layer, generator=generator)`; `caviar.nn.INITIALISERS["he"]` is the same by name.',
        ("model.init",),
        (),
        (*_under("nn", "initialise"),
         *_under("nn.initialisers", "zeros", "constant", "small_normal", "normal", "uniform", "xavier", "he", "lecun",
                 "orthogonal", "random_walk", "identity"),
         *_under("nn", "data_dependent", "lsuv", "zero_residual_ends", "fan_in_and_fan_out", "adapt_model",
                 "looks_at_data", "resolve_init")),
    ),
    Page(
        "norms",
        "Norms",
        "The norm stands in `model.norm`; the layers are torch's own. Here is what torch lacks: norms of stacked "
        "members and of weighted examples, folding, and statistics taken anew.",
        ("model.norm",),
        (),
        _under("nn", "fold_batch_norm", "FoldReport", "recalibrate", "keeps_statistics", "drop_cancelled_biases",
               "MembersBatchNorm", "members_batch_norm", "members_layer_norm", "members_group_norm", "batch_moments",
               "weighted_batch_norm"),
    ),
    Page(
        "losses",
        "Losses",
        "The loss stands in the section [loss].",
        ("loss.name",),
        ("loss.*",),
        _under("nn", "cross_entropy", "hinge", "logistic", "mean_squared_error", "huber", "balanced_class_weights",
               "class_log_probabilities", "build_loss", "resolve_loss"),
    ),
    Page(
        "regularisation",
        "Regularisation",
        "Penalties and max-norm stand in the section [regularization], weight decay in [optimizer], dropout in "
        "[model], early stopping in [training], dropout at prediction in [prediction].",
        ("regularization", "model.dropout_form", "training", "prediction", ""),
        ("regularization",),
        _under("nn", "l2_penalty", "l1_penalty", "elastic_net_penalty", "add_penalty_gradients", "limit_norms",
               "regularised_weights", "Regularizer", "build_regularizer", "dropout", "Dropout", "drop_connect",
               "DropConnectLinear", "monte_carlo_predict", "MonteCarlo")
        + _under("optim", "clip_gradients", "EarlyStopping", "is_better"),
    ),
    Page(
        "optimisers",
        "Optimisers",
        "The update rule stands in the section [optimizer]. Each function here takes parameters or parameter groups "
        "and returns a `torch.optim.Optimizer` for anybody's loop.",
        ("optimizer.name",),
        ("optimizer.*",),
        (*_under("optim", "sgd", "adagrad", "rmsprop", "adam", "adamw", "nadam", "radam", "ranger", "lion", "muon",
                 "lookahead", "lbfgs", "Newton", "Optimizer", "Rule", "chain"),
         "optim.pieces.*", "optim.newton_schulz.scale_by_muon",
         *_under("optim", "newton_schulz", "muon_groups", "parameter_groups", "build_optimizer", "set_learning_rate",
                 "set_momentum", "needs_closure", "second_order_step", "momentum_of", "optimizer_tensors",
                 "load_optimizer_tensors")),
    ),
    Page(
        "schedules",
        "Schedules",
        "The schedule stands in the section [schedule]; a warm-up may stand in front of any. Look before training: "
        "`caviar recipe DATA --preview schedule` prints the course of your own recipe, and draws it with `--output`.",
        ("schedule.name",),
        ("schedule.*",),
        ("optim.schedules.*", *_under("optim", "Plateau", "Plateaus", "preview", "preview_table", "sparkline",
                                      "plot_schedules", "build_schedule", "build_plateaus", "build_momentum_schedule",
                                      "check_schedule")),
    ),
    Page(
        "averages",
        "Running averages",
        "An average of the weights stands in the section [average]; while one is kept, dev judges it, and the bundle "
        "holds it. Its batch norms take their statistics anew, over training examples.",
        ("average.name",),
        ("average.*",),
        _under("optim", "AveragedModel", "stochastic_weight_average", "RunningAverage", "ewma", "Averaging",
               "build_averaging", "check_average", "AverageTimes", "average_times"),
    ),
    Page(
        "preprocessing",
        "Preprocessing",
        "Preprocessing stands in the section [preprocess]; it is fitted on the training split only, and is part of the "
        "bundle.",
        ("preprocess.numeric", "preprocess.decorrelate", "preprocess.missing", "preprocess.categorical",
         "preprocess.pictures"),
        ("preprocess",),
        _under("preprocess", "fit_center", "fit_minmax", "fit_zscore", "fit_robust", "Scaling", "fit_pca",
               "fit_whiten_pca", "fit_whiten_zca", "fit_gram_schmidt", "Decorrelation", "fit_pictures",
               "PicturePreprocess", "fit_arrays", "ArrayPreprocess", "fit_table", "TablePreprocess", "Encoded",
               "fit_target", "TargetScaler", "Moments", "Covariance", "rebuild"),
    ),
    Page(
        "augmentation",
        "Augmentation",
        "Augmentation of training pictures stands in the section [augment], views at prediction in [prediction]. Look "
        "before training: `caviar recipe PICTURES --preview augment` draws a sheet of your own pictures.",
        ("augment", "prediction.views"),
        ("augment", "prediction"),
        _under("augment", "random_flip", "random_crop", "random_scale_crop", "random_translation", "random_rotation",
               "random_stretch", "random_shear", "random_lens", "random_perspective", "random_colour", "random_erasing",
               "mixup", "cutmix", "soft_labels", "flip_views", "ten_crop", "zoomed_ten_crop", "average_predictions",
               "picture_sheet", "augment", "build_augment", "flip", "crop", "warp", "Geometry", "draw_geometry",
               "adjust_colour", "mix", "check_settings", "is_none", "mixes_labels"),
    ),
    Page(
        "tools",
        "Tools",
        "What can be asked of any network: are its gradients right, and how do signals go through it?",
        (),
        (),
        _under("nn", "check_gradients", "GradientReport", "ParameterCheck", "EntryCheck", "activation_statistics",
               "ActivationStatistics"),
    ),
)  # fmt: skip
"""The reference, page by page."""
