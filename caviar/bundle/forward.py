"""From raw blocks to what a network says of them: once, averaged over views of a picture, or over dropout's draws."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from caviar.augment import average_predictions, flip_views, zoomed_ten_crop
from caviar.bundle.settings import PredictionSettings
from caviar.core.errors import InputError
from caviar.core.seeds import derive_seed
from caviar.nn import class_log_probabilities, has_dropout, monte_carlo_predict
from caviar.train.evaluate import EVALUATION_BATCH

if TYPE_CHECKING:
    from caviar.bundle.bundle import Bundle

LEAST = torch.finfo(torch.float32).tiny
"""A mean probability below this counts as this, so that its logarithm is finite."""


class Outputs(NamedTuple):
    """What the network says of every example, on the CPU in float32.

    values: for classes (examples, classes), which `loss` reads as probabilities (`caviar.nn.class_scores`); for
    regression standardised values (examples, 1). std: of probabilities or values under Monte Carlo dropout, or None.
    """

    values: Tensor
    loss: str
    std: Tensor | None = None


def loss_name(bundle: "Bundle") -> str:
    """Return the loss that decides what the network's outputs mean as probabilities."""
    loss = bundle.manifest.recipe.get("loss", {})
    return str(loss.get("name", "cross_entropy")) if isinstance(loss, Mapping) else "cross_entropy"


def prediction_settings(bundle: "Bundle") -> PredictionSettings:
    """Return how the bundle predicts; one from before there was a choice predicts plainly."""
    try:
        return PredictionSettings.model_validate(bundle.manifest.recipe.get("prediction", {}))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise InputError(f"prediction.{name} is not valid: {first['msg']}.") from error


def check_prediction(settings: PredictionSettings, kind: str, network: nn.Module) -> None:
    """Raise an InputError when predictions from this kind of data by this network cannot be made so."""
    views, passes = settings.views, settings.monte_carlo
    if views != "none" and kind != "pictures":
        raise InputError(
            f"prediction.views is {views!r}, which is for pictures, and this data is of kind {kind!r}. "
            'Set it to "none".'
        )
    if passes != "none" and views != "none":
        raise InputError('prediction.views and prediction.monte_carlo do not go together. Set one of them to "none".')
    if passes != "none" and not has_dropout(network):
        raise InputError(
            f"prediction.monte_carlo is {passes}, but the network has no dropout, so that all passes would be equal. "
            'Set model.dropout above 0, or prediction.monte_carlo = "none".'
        )


@torch.no_grad()
def network_outputs(bundle: "Bundle", blocks: Iterable[Tensor]) -> Outputs:
    """Run preprocessing and network over blocks of raw input.

    In batches as large as in training's evaluation; where blocks are multiples of them, not a bit differs from what
    training reports.
    """
    settings, loss = prediction_settings(bundle), loss_name(bundle)
    bundle.network.eval()
    bundle.preprocess.cpu()
    forward = partial(_forward, bundle)
    if settings.monte_carlo != "none":
        return _monte_carlo(bundle, blocks, settings.monte_carlo)
    if settings.views == "none":
        return Outputs(torch.cat([_in_batches(bundle, block, forward) for block in blocks]), loss)
    views = flip_views if settings.views == "flip" else partial(zoomed_ten_crop, zoom=settings.zoom)
    predict = partial(_in_batches, bundle, forward=lambda batch: _probabilities(bundle, forward(batch)))
    means = torch.cat([average_predictions(predict, _views_of(block, views)) for block in blocks])
    return _as_outputs(bundle, means)


def _in_batches(bundle: "Bundle", block: Tensor, forward: Callable[[Tensor], Tensor]) -> Tensor:
    """Preprocess a raw block and run `forward` over it; the results are on the CPU in float32."""
    parameter = next(bundle.network.parameters(), None)
    device = parameter.device if parameter is not None else torch.device("cpu")
    found = [
        forward(batch.to(device)).float().cpu() for batch in torch.split(bundle.preprocess(block), EVALUATION_BATCH)
    ]
    return torch.cat(found)


def _forward(bundle: "Bundle", batch: Tensor) -> Tensor:
    try:
        outputs: Tensor = bundle.network(batch)
        return outputs
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, IndexError, TypeError, ValueError) as error:
        raise InputError(
            f"the network cannot take these inputs ({batch.dtype} of shape {tuple(batch.shape)}): "
            f"{str(error).splitlines()[0]}. Give inputs of the type and range that it was trained on."
        ) from error


def _views_of(block: Tensor, views: Callable[[Tensor], list[Tensor]]) -> list[Tensor]:
    """Return views of raw pixels (n, height, width, channels), in the same form."""
    return [view.permute(0, 2, 3, 1) for view in views(block.permute(0, 3, 1, 2))]


def _probabilities(bundle: "Bundle", outputs: Tensor) -> Tensor:
    """Return what may be averaged: probabilities of classes, or values."""
    if bundle.manifest.task == "regression":
        return outputs
    return class_log_probabilities(outputs, loss_name(bundle)).exp()


def _as_outputs(bundle: "Bundle", means: Tensor, std: Tensor | None = None) -> Outputs:
    """Return mean probabilities as what softmax makes them of, mean values as they are."""
    values = means if bundle.manifest.task == "regression" else means.clamp_min(LEAST).log()
    return Outputs(values, "cross_entropy", std)


class _Probabilistic(nn.Module):
    """A bundle's network with probabilities for outputs."""

    def __init__(self, bundle: "Bundle") -> None:
        super().__init__()
        self.network, self._bundle = bundle.network, bundle

    def forward(self, batch: Tensor) -> Tensor:
        return _probabilities(self._bundle, _forward(self._bundle, batch))


def _monte_carlo(bundle: "Bundle", blocks: Iterable[Tensor], samples: int) -> Outputs:
    """Average over draws of dropout that follow from the run's seed and the batch's number."""
    model, seed = _Probabilistic(bundle), int(bundle.manifest.recipe.get("seed", 0))
    deviations: list[Tensor] = []

    def sample(batch: Tensor) -> Tensor:
        found = monte_carlo_predict(model, batch, samples, derive_seed(seed, "monte carlo", len(deviations)))
        deviations.append(found.std.float().cpu())
        return found.mean

    means = [_in_batches(bundle, block, sample) for block in blocks]
    return _as_outputs(bundle, torch.cat(means), torch.cat(deviations))
