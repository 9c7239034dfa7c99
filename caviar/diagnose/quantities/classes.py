"""What the confusion matrix of dev says about classes."""

import math

from torch import Tensor

from caviar.diagnose.quantities.pending import Key


def read_confusion(confusion: Tensor) -> dict[Key, float]:
    """Return how predictions spread over classes, from counts (true classes, predicted classes) on the CPU.

    classes_never_predicted: of those that have examples; first_never_predicted: the number of the most frequent one.
    most_predicted_share: of all predictions; largest_class_share: of all examples. balanced_accuracy: mean recall.
    """
    counts = confusion.double()
    support, predicted, hits = counts.sum(1), counts.sum(0), counts.diagonal()
    total = float(support.sum())
    if not total:
        return {}
    present = support > 0
    never = present & (predicted == 0)
    found = {
        "classes_never_predicted": float(never.sum()),
        "most_predicted_share": float(predicted.max()) / total,
        "largest_class_share": float(support.max()) / total,
        "balanced_accuracy": float((hits[present] / support[present]).mean()),
        "worst_recall": float((hits[present] / support[present]).min()),
    }
    if bool(never.any()):
        worst = int((support * never).argmax())
        found |= {"first_never_predicted": float(worst), "never_predicted_share": float(support[worst]) / total}
    return {Key(name, split="dev"): value for name, value in found.items() if not math.isnan(value)}
