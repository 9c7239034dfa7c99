"""Every quantity: its name in the records, and what it means."""

from typing import Final, Literal, NamedTuple


class Quantity(NamedTuple):
    """What a curve in the records is.

    by: "run", or "layer" where there is one curve for each layer (and one for all, with layer ""). when: each "step",
    at a "look", at an "early" look (steps 1, 2, 4, ...), each "epoch", or once at the "start".
    """

    name: str
    by: Literal["run", "layer"]
    when: Literal["step", "look", "early", "epoch", "start"]
    meaning: str


_ALL = (
    Quantity("batch_loss", "run", "step", "loss of the training batch, as it is minimised (penalties left out)"),
    Quantity("smoothed_loss", "run", "look", "bias-corrected running average of batch_loss, decay 0.98"),
    Quantity("loss", "run", "epoch", "mean loss: of train over the epoch's batches, of dev afterwards"),
    Quantity("accuracy", "run", "epoch", "share of right answers; of train, of a fixed sample evaluated as dev is"),
    Quantity("r2", "run", "epoch", "1 - squared error / variance; of train, of a fixed sample evaluated as dev is"),
    Quantity("evaluated_loss", "run", "epoch", "loss of the training sample evaluated as dev is: no dropout"),
    Quantity("gap", "run", "epoch", "metric of the training sample minus that of dev"),
    Quantity("loss_gap", "run", "epoch", "dev loss minus evaluated_loss"),
    Quantity("learning_rate", "run", "look", "step size in use, the largest of all groups"),
    Quantity("weight_decay", "run", "look", "weight decay in use, the largest of all groups"),
    Quantity("momentum", "run", "look", "momentum, or the first beta, in use"),
    Quantity("gradient_norm", "layer", "look", "root of the sum of squares, before penalties and clipping"),
    Quantity("weight_norm", "layer", "look", "root of the sum of squares, after the step"),
    Quantity("update_ratio", "layer", "look", "norm of the step over that of the weights; 0.001 is usual"),
    Quantity("gradient_cosine", "run", "look", "cosine between the gradients of two successive steps"),
    Quantity("noise_scale", "run", "look", "examples in a batch whose gradient noise equals the signal"),
    Quantity("activation_mean", "layer", "look", "mean over the batch of what an activation gives"),
    Quantity("activation_std", "layer", "look", "standard deviation over the batch of what an activation gives"),
    Quantity(
        "dead",
        "layer",
        "look",
        "share of units (channels) of a rectifier that were 0 for 256 examples, over some looks",
    ),
    Quantity("saturated", "layer", "look", "share of values where the slope of tanh or sigmoid is below 0.01"),
    Quantity("norm_mean_lag", "layer", "look", "mean over channels of |batch mean - running mean| / running std"),
    Quantity("norm_variance_lag", "layer", "look", "mean over channels of |log(batch variance / running variance)|"),
    Quantity("input_mean", "run", "early", "mean of a batch as the network sees it"),
    Quantity("input_std", "run", "early", "standard deviation of all values of a batch"),
    Quantity("input_min", "run", "early", "least value of a batch"),
    Quantity("input_max", "run", "early", "largest value of a batch"),
    Quantity("input_scale_ratio", "run", "early", "largest over smallest standard deviation of features (channels)"),
    Quantity("input_scale_excess", "run", "early", "largest over median standard deviation of features (channels)"),
    Quantity("input_constant", "run", "early", "share of features (channels) that do not vary in a batch"),
    Quantity("input_whole", "run", "early", "1 where all values are whole numbers"),
    Quantity("input_jumps", "run", "early", "share of neighbouring pixels that differ by more than 0.6 of the range"),
    Quantity("input_shift", "run", "start", "largest difference between a feature's means in train and dev, in stds"),
    Quantity("input_shift_sigma", "run", "start", "the same in standard errors"),
    Quantity("input_shift_mean", "run", "start", "root mean square over features of the same difference, in stds"),
    Quantity("input_scale_shift", "run", "start", "median over features of |log(std in dev / std in train)|"),
    Quantity("input_nonfinite", "run", "start", "share of input values that are NaN or infinite"),
    Quantity("output_mean", "run", "look", "mean of all outputs of a batch"),
    Quantity("output_std", "run", "look", "standard deviation of all outputs of a batch"),
    Quantity("output_spread", "run", "look", "how outputs vary over the batch; 0: all get the same answer"),
    Quantity("output_width", "run", "look", "outputs for one example"),
    Quantity("output_form", "run", "early", "1 probabilities, 2 across the batch, 3 and 4 their logarithms, or 0"),
    Quantity("unit_spread", "layer", "early", "how much the units of a layer differ; 0: all have the same weights"),
    Quantity("initial_gain", "layer", "early", "root mean square of the first weights times root of fan in"),
    Quantity("weight_bound", "layer", "early", "of frozen layers: largest weight times root of fan in"),
    Quantity("looks_fresh", "layer", "early", "of the first frozen layers: 1 where the weights look freshly drawn"),
    Quantity("frozen", "layer", "early", "share of weights that ask for no gradient"),
    Quantity("no_gradient", "layer", "early", "share of weights that no gradient reaches"),
    Quantity("not_held", "layer", "early", "share of weights that the optimiser does not hold"),
    Quantity("evaluation_mode", "run", "look", "share of dropout and batch-norm layers in evaluation mode"),
    Quantity("frozen_norms", "run", "look", "share of batch-norm layers in evaluation mode"),
    Quantity("model_training", "run", "look", "1 where the network itself is in training mode"),
    Quantity("leftover_gradient", "run", "look", "gradient that was there before backward, over the new one (watch)"),
    Quantity("optimizer_stepped", "run", "look", "1 where the optimiser took a step (watch)"),
    Quantity("losses_kept", "run", "look", "losses of earlier steps that are held with their graphs (watch)"),
    Quantity("data_wait", "run", "look", "share of a step's time before the forward pass: reading, augmenting"),
    Quantity("examples_per_second", "run", "look", "training examples a second, evaluations included"),
    Quantity("memory", "run", "look", "bytes: of tensors on a CUDA device, else of the process"),
    Quantity("classes_never_predicted", "run", "epoch", "classes of dev that no example was predicted to be"),
    Quantity("first_never_predicted", "run", "epoch", "number of the most frequent of them"),
    Quantity("never_predicted_share", "run", "epoch", "share of dev that is of that class"),
    Quantity("most_predicted_share", "run", "epoch", "share of dev predicted to be of the class predicted most often"),
    Quantity("largest_class_share", "run", "epoch", "share of dev that is of its most frequent class"),
    Quantity("balanced_accuracy", "run", "epoch", "mean recall of the classes in dev"),
    Quantity("worst_recall", "run", "epoch", "least recall of the classes in dev"),
)

QUANTITIES: Final[dict[str, Quantity]] = {quantity.name: quantity for quantity in _ALL}
"""Every name that a record may have."""


MOMENTARY: Final = frozenset(
    {"gradient_cosine", "noise_scale", "dead", "data_wait", "examples_per_second", "memory", "optimizer_stepped"}
)
"""What belongs to the machine, or to several steps that a stop may part: not the same in every run of one recipe."""
