"""Running averages of members' weights, beside the weights themselves."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from caviar.population.cohort import Cohort

Live = Callable[[], Mapping[str, Tensor]]
"""Returns the weights and buffers as they are now, by the names of the state dict; not copies."""


class Average:
    """A running average that begins as the weights are; buffers (batch norm's statistics) are copied, not averaged."""

    def __init__(self, live: Live, template: nn.Module) -> None:
        self._live = live
        self._averaged = {name for name, _ in template.named_parameters(remove_duplicate=False)}
        self._tensors = {name: tensor.detach().clone() for name, tensor in live().items()}

    @torch.no_grad()
    def take(self, share: float) -> None:
        """Let average = (1 - share) average + share weights."""
        live = self._live()
        averaged = [name for name in self._tensors if name in self._averaged]
        torch._foreach_lerp_(
            [self._tensors[name] for name in averaged], [live[name].detach() for name in averaged], share
        )
        for name in self._tensors.keys() - self._averaged:
            self._tensors[name].copy_(live[name])

    def state(self) -> dict[str, Tensor]:
        """Return copies as an executor's state has them: "average/<name>"."""
        return {f"average/{name}": tensor.clone() for name, tensor in self._tensors.items()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` has returned."""
        for name, tensor in self._tensors.items():
            tensor.copy_(state[f"average/{name}"])


def average_of(cohort: Cohort, live: Live) -> Average | None:
    """Return the average that a cohort wants kept, or None."""
    return Average(live, cohort.template) if cohort.average else None


def state_of(average: Average | None) -> dict[str, Tensor]:
    """Return the state of an average that there may be."""
    return {} if average is None else average.state()
