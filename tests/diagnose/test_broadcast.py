"""Whether a loss pairs every output with every target is told from its value, not from shapes."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from caviar.diagnose.watch_hooks import is_broadcast

OUTPUTS = torch.randn(40, 1, generator=torch.Generator().manual_seed(0))
TARGETS = torch.randn(40, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.L1Loss(), nn.SmoothL1Loss()])
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_only_the_broadcast_loss_is_called_so(loss: nn.Module) -> None:
    outputs = OUTPUTS[:, 0]
    assert is_broadcast(outputs, TARGETS, float(loss(OUTPUTS, TARGETS)))
    assert not is_broadcast(outputs, TARGETS, float(loss(outputs, TARGETS)))


def test_of_another_loss_nothing_is_said() -> None:
    def other(z: Tensor, t: Tensor) -> Tensor:
        return functional.mse_loss(z, t) + 0.1 * z.square().mean()

    assert not is_broadcast(OUTPUTS[:, 0], TARGETS, float(other(OUTPUTS[:, 0], TARGETS)))
    many = torch.zeros(2000)
    assert not is_broadcast(many, many, 0.0)
