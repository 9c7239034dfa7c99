"""Gradient clipping."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from caviar.optim.checks import check_number


def clip_gradients(parameters: Sequence[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients by min(1, max_norm / (norm + 1e-6)) in place and return the norm, taken over all of them.

    Pascanu et al. 2013. Torch takes its foreach kernels where they pay (on a GPU; on a CPU they gain 2 to 5%). The norm
    stays on the device, so nothing waits; gradients that are not finite give a norm that is not finite, and no error.
    max_norm: greater than 0; 1 is usual for recurrent networks and transformers. When: some batches give gradients of
    many times the usual size. Raises InputError when max_norm is out of range.
    """
    if not max_norm > 0:
        check_number("max_norm", max_norm, above=0.0)
    return clip_grad_norm_(parameters, max_norm, error_if_nonfinite=False)
