"""What the confusion matrix of dev says about classes."""

import numpy as np
from torch import Tensor

from caviar.diagnose.quantities.pending import Key


def read_confusion(confusion: Tensor) -> dict[Key, float]:
    """Return how predictions spread over classes, from counts (true classes, predicted classes) on the CPU.

    classes_never_predicted: of those that have examples; first_never_predicted: the number of the most frequent one.
    most_predicted_share: of all predictions; largest_class_share: of all examples. balanced_accuracy: mean recall.
    """
    counts = confusion.numpy()
    support, predicted = counts.sum(axis=1), counts.sum(axis=0)
    total = int(support.sum())
    if not total:
        return {}
    present = support > 0
    recalls = counts.diagonal()[present] / support[present]
    never = present & (predicted == 0)
    found = {
        "classes_never_predicted": float(never.sum()),
        "most_predicted_share": float(predicted.max()) / total,
        "largest_class_share": float(support.max()) / total,
        "balanced_accuracy": float(recalls.mean()),
        "worst_recall": float(recalls.min()),
    }
    if found["classes_never_predicted"]:
        worst = int(np.argmax(support * never))
        found |= {"first_never_predicted": float(worst), "never_predicted_share": float(support[worst]) / total}
    return {Key(name, split="dev"): value for name, value in found.items()}
