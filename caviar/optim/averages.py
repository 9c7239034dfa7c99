"""Running averages, of series and of weights."""

import copy
from collections.abc import Callable, Iterable, Sequence
from itertools import compress

import torch
from torch import Tensor, nn

from caviar.core.errors import InputError
from caviar.core.members import over_members
from caviar.optim.checks import check_number
from caviar.optim.lists import Number


class RunningAverage:
    """Exponentially weighted average of a series, told value by value.

    v = beta v + (1 - beta) x from v = 0; with bias_correction v / (1 - beta^t) after t values, which is the weighted
    mean of all values so far and so begins with the first one instead of near zero. It looks back over about
    1 / (1 - beta) values. beta: at least 0, below 1; a tensor of shape [members] takes values of shape [members, ...].
    When: to read a trend off noisy losses. Raises InputError when beta is out of range.
    """

    def __init__(self, beta: Number = 0.9, *, bias_correction: bool = True) -> None:
        check_number("beta", beta, least=0.0, below=1.0)
        self._beta, self._corrects = beta, bias_correction
        self._average: Number = 0.0
        self._share: Number = 0.0

    def update(self, value: Number) -> Number:
        """Take the next value, a number or a tensor, and return the average."""
        beta = over_members(self._beta, value) if isinstance(value, Tensor) else self._beta
        self._average = beta * self._average + (1 - beta) * value
        self._share = self._beta * self._share + (1 - self._beta)  # 1 - beta^t, without a power that loses digits
        return self.value

    @property
    def value(self) -> Number:
        """The average so far; before the first value it is NaN."""
        if not isinstance(self._share, Tensor) and self._share == 0:
            return float("nan")
        if not self._corrects:
            return self._average
        share = over_members(self._share, self._average) if isinstance(self._average, Tensor) else self._share
        return self._average / share


def ewma(values: Iterable[float], beta: float = 0.9, *, bias_correction: bool = True) -> list[float]:
    """Return the exponentially weighted average after each of `values`: see `RunningAverage`."""
    average = RunningAverage(beta, bias_correction=bias_correction)
    return [float(average.update(value)) for value in values]


class AveragedModel:
    """A copy of a model whose weights are a running average of the model's.

    exponential (`decay` given): average = decay average + (1 - decay) w. warm_up: the decay of update t is at most
    (1 + t) / (10 + t), so that the average leaves the first weights behind early.
    stochastic weight averaging (`decay` None): the plain mean of the weights at all updates (Izmailov et al. 2018).

    decay: 0.9 to 0.9999, or a tensor of shape [members] when all parameters have a leading members axis. Buffers that
    are floating point (batch norm's statistics) are averaged like weights when average_buffers, and copied otherwise;
    whole numbers are copied. After stochastic weight averaging, batch norm's statistics must be taken anew: give
    `recalibrate` to `finish`. Averages are kept in the parameters' own type.
    When: the average of late weights is nearly always a little better on dev, and steadier, than the last ones.
    Raises InputError when decay is out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        decay: Number | None = 0.999,
        *,
        warm_up: bool = False,
        average_buffers: bool = True,
    ) -> None:
        if decay is not None:
            check_number("decay", decay, least=0.0, below=1.0)
        if warm_up and decay is None:
            raise InputError("warm_up is for an exponential average; give a decay, or leave warm_up out.")
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.num_updates = 0
        self._decay, self._warm_up, self._average_buffers = decay, warm_up, average_buffers
        self._weights: list[Tensor] = list(self.model.parameters())
        self._buffers: list[Tensor] = list(self.model.buffers())

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the model's present weights into the average; call it after a step, or after an epoch."""
        weights: list[Tensor] = list(model.parameters())
        buffers: list[Tensor] = list(model.buffers())
        if len(weights) != len(self._weights) or len(buffers) != len(self._buffers):
            raise InputError(f"the model has other weights than the averaged one: {_differing(self.model, model)}.")
        averaged = [self._average_buffers and buffer.is_floating_point() for buffer in self._buffers]
        copied = [not each for each in averaged]
        targets, sources = [*compress(self._buffers, averaged)], [*compress(buffers, averaged)]
        _move_towards(self._weights + targets, weights + sources, self._share())
        if any(copied):
            torch._foreach_copy_([*compress(self._buffers, copied)], [*compress(buffers, copied)])
        self.num_updates += 1

    def finish(self, recalibrate: Callable[[nn.Module], object] | None = None) -> nn.Module:
        """Return the averaged model; `recalibrate` is called with it first, to take batch norm's statistics anew."""
        if recalibrate is not None:
            recalibrate(self.model)
        return self.model

    def state(self) -> dict[str, Tensor]:
        """Return the averages and the number of updates, for a checkpoint."""
        averages = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        return {**averages, "num_updates": torch.tensor(self.num_updates)}

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` returned."""
        self.model.load_state_dict(
            {name.removeprefix("model."): tensor for name, tensor in state.items() if name != "num_updates"}
        )
        self.num_updates = int(state["num_updates"])

    def _share(self) -> Number:
        """Return the share that the present weights get."""
        return share_of_present(self._decay, self.num_updates, warm_up=self._warm_up)


def share_of_present(decay: Number | None, num_updates: int, *, warm_up: bool) -> Number:
    """Return the share that the present weights get of an average after so many updates: see `AveragedModel`."""
    if decay is None:
        return 1 / (num_updates + 1)
    if not warm_up:
        return 1 - decay
    most = (1 + num_updates) / (10 + num_updates)
    return 1 - (decay.clamp(max=most) if isinstance(decay, Tensor) else min(decay, most))


def _move_towards(targets: list[Tensor], sources: list[Tensor], weight: Number) -> None:
    if isinstance(weight, Tensor):
        for target, source in zip(targets, sources, strict=True):
            target.lerp_(source, over_members(weight.to(target), target))
    elif targets:
        torch._foreach_lerp_(targets, sources, weight)


def _differing(averaged: nn.Module, model: nn.Module) -> str:
    one, other = ({name for name, _ in (*each.named_parameters(), *each.named_buffers())} for each in (averaged, model))
    return ", ".join(sorted(one ^ other))


def stochastic_weight_average(
    model: nn.Module, weights: Sequence[dict[str, Tensor]], recalibrate: Callable[[nn.Module], object] | None = None
) -> nn.Module:
    """Return a copy of `model` whose weights are the mean of several state dicts: snapshots of one run.

    recalibrate: takes batch norm's statistics anew. Raises InputError when there is nothing to average.
    """
    if not weights:
        raise InputError("there are no weights to average; give at least one state dict.")
    average, snapshot = AveragedModel(model, None), copy.deepcopy(model)
    for state in weights:
        snapshot.load_state_dict(state)
        average.update(snapshot)
    return average.finish(recalibrate)
