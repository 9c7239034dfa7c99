"""What the faults of benchmarks/diagnosis.py change in a working set-up."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from diagnosis_works import Work, he, mlp
from torch import Tensor, nn
from torch.nn import functional

Change = Callable[[Work], Any]


def layers(work: Work) -> list[Any]:
    """Return the layers with weights."""
    return [layer for layer in work.model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]


def inputs(change: Callable[[Tensor], Tensor], *, train: bool = True, dev: bool = True) -> Change:
    """Change the inputs."""

    def apply(work: Work) -> None:
        data = work.data
        work.data = replace(
            data,
            train=(change(data.train[0]), data.train[1]) if train else data.train,
            dev=(change(data.dev[0]), data.dev[1]) if dev else data.dev,
        )

    return apply


def targets(change: Callable[[Tensor], Tensor], *, dev: bool = True) -> Change:
    """Change the targets."""

    def apply(work: Work) -> None:
        data = work.data
        held = (data.dev[0], change(data.dev[1])) if dev else data.dev
        work.data = replace(data, train=(data.train[0], change(data.train[1])), dev=held)

    return apply


def setting(**values: Any) -> Change:
    """Change settings of the work."""
    return lambda work: replace(work, **values)


def shuffled(targets: Tensor) -> Tensor:
    """Put targets into another order than the inputs."""
    return targets[torch.randperm(len(targets), generator=torch.Generator().manual_seed(3))]


def raw(work: Work) -> None:
    """The inputs as they were read, before they were standardised; pixels from 0 to 255."""
    data = work.data
    shape = data.train[0].shape[1:]
    raw = [part * 255 if len(shape) == 3 and shape[0] == 3 else part for part in data.raw]
    pairs = [(x.reshape(-1, *shape), y) for x, (_, y) in zip(raw, (data.train, data.dev), strict=True)]
    work.data = replace(data, train=pairs[0], dev=pairs[1])


def overflown(work: Work) -> None:
    """Pixels centred in eight bits: 255 - 128 fits, 100 - 128 becomes 228."""
    data = work.data

    def wrap(pixels: Tensor) -> Tensor:
        return ((pixels * 255).to(torch.uint8) - 128).float() / 255

    train, dev = wrap(data.raw[0]), wrap(data.raw[1])
    mean, std = train.mean(), train.std()
    work.data = replace(data, train=((train - mean) / std, data.train[1]), dev=((dev - mean) / std, data.dev[1]))


def noisy_labels(share: float, epochs: int) -> Change:
    """Draw a share of the training labels anew, and train for long enough to learn them."""

    def apply(work: Work) -> Work:
        inputs, labels = work.data.train
        generator = torch.Generator().manual_seed(4)
        wrong = torch.rand(len(labels), generator=generator) < share
        others = torch.randint(0, int(labels.max()) + 1, labels.shape, generator=generator)
        mixed = (inputs, torch.where(wrong, others, labels))
        return replace(work, data=replace(work.data, train=mixed), epochs=epochs)

    return apply


def upside_down(x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Digits turned by half a circle or mirrored: 6 is 9, 2 is 5."""
    chosen = torch.rand(len(x), 1, 1, 1, generator=generator)
    turned = torch.where(chosen < 0.4, x.flip(-1, -2), torch.where(chosen < 0.8, x.flip(-2), x))
    return turned, y


def apart(x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Shuffles pictures and forgets the labels."""
    return x[torch.randperm(len(x), generator=generator)], y


def column_of_target(work: Work) -> None:
    """Add the target as one more column."""
    data = work.data

    def widened(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return torch.cat([pair[0], pair[1].float().unsqueeze(1)], 1), pair[1]

    work.data = replace(data, train=widened(data.train), dev=widened(data.dev))
    first = layers(work)[0]
    work.model[1] = nn.Linear(first.in_features + 1, first.out_features, first.bias is not None)  # type: ignore[operator]


def dev_in_train(work: Work) -> None:
    """Train on most of dev too."""
    data = work.data
    count = len(data.dev[0]) * 3 // 4
    joined = tuple(torch.cat([a, b[:count]]) for a, b in zip(data.train, data.dev, strict=True))
    work.data = replace(data, train=joined)


def other_classes(work: Work) -> None:
    """Train holds mostly the first half of the classes, dev the second."""
    data = work.data
    keep = [((y < data.classes / 2) == first) | (torch.arange(len(y)) % 8 == 0)
            for first, (_, y) in ((True, data.train), (False, data.dev))]  # fmt: skip
    pairs = [(x[rows], y[rows]) for rows, (x, y) in zip(keep, (data.train, data.dev), strict=True)]
    work.data = replace(data, train=pairs[0], dev=pairs[1])


def rare(work: Work) -> None:
    """One in fifty is of class 1."""
    data = work.data
    pairs = []
    for x, y in (data.train, data.dev):
        rows = (y != 1) | (torch.arange(len(y)) % 12 == 0)
        pairs.append((x[rows], (y[rows] == 1).long()))
    work.data = replace(data, train=pairs[0], dev=pairs[1], classes=2)
    work.model[-1] = nn.Linear(layers(work)[-1].in_features, 2)  # type: ignore[operator]


def one_bad_row(work: Work) -> None:
    """Let one example be NaN."""
    work.data.train[0][5].fill_(float("nan"))


def extreme_rows(work: Work) -> None:
    """Let one example in 150 be 400 times as large."""
    work.data.train[0][torch.arange(0, len(work.data.train[0]), 150)] *= 400.0


def weights(change: Callable[[Tensor], Any], *, last: bool = True) -> Change:
    """Change the weights of layers."""

    def apply(work: Work) -> None:
        with torch.no_grad():
            for layer in layers(work)[: None if last else -1]:
                change(layer.weight)

    return apply


def biases(value: float) -> Change:
    """Let hidden biases start at a value."""

    def apply(work: Work) -> None:
        for layer in layers(work)[:-1]:
            nn.init.constant_(layer.bias, value)

    return apply


def zeros(work: Work) -> None:
    """Let all weights start at 0."""
    for parameter in work.model.parameters():
        nn.init.zeros_(parameter)


def activation(kind: Callable[[], nn.Module], depth: int) -> Change:
    """A deep net with that activation and torch's own initial weights."""

    def apply(work: Work) -> None:
        first, last = layers(work)[0], layers(work)[-1]
        work.model = mlp([first.in_features, *[48] * depth, last.out_features], kind)

    return apply


class Wrapped(nn.Module):
    """A network whose forward is a function of it and the inputs."""

    def __init__(self, inner: nn.Module, forward: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.function = inner, forward

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function."""
        return self.function(self.inner, x)


def forward(function: Callable[[Any, Tensor], Tensor]) -> Change:
    """Change the forward pass."""

    def apply(work: Work) -> None:
        work.model = Wrapped(work.model, function)

    return apply


def detached(inner: Any, x: Tensor) -> Tensor:
    """Cuts everything before the last layer but one off."""
    layers = list(inner)
    cut = max(i for i, layer in enumerate(layers[:-1]) if isinstance(layer, nn.Linear | nn.Conv2d))
    for i, layer in enumerate(layers):
        x = layer(x.detach() if i == cut else x)
    return x


def unused(inner: Any, x: Tensor) -> Tensor:
    """Leaves one hidden layer of equal width out."""
    skipped = [
        i for i, layer in enumerate(inner) if isinstance(layer, nn.Linear) and layer.in_features == layer.out_features
    ]
    for i, layer in enumerate(inner):
        x = x if i == skipped[0] else layer(x)
    return x


class HalfBackward(torch.autograd.Function):
    """The identity with a gradient of the wrong sign on every other unit."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # noqa: ARG004
        gradient = grads[0].clone()
        gradient[:, ::2] *= -1
        return gradient


def wrong_backward(inner: Any, x: Tensor) -> Tensor:
    """Turn half of the gradient round on its way."""
    layers = list(inner)
    for i, layer in enumerate(layers):
        x = layer(x)
        if i == 1:
            x = HalfBackward.apply(x)
    return x


def stale(work: Work) -> None:
    """The last layer is replaced once the optimiser has been built."""

    def late(model: Any) -> None:
        layer = model[-1]
        model[-1] = nn.Linear(layer.in_features, layer.out_features)

    work.late = late


def all_stale(work: Work) -> None:
    """The whole network is built again after the optimiser."""

    def late(model: Any) -> None:
        for layer in model.modules():
            for name, parameter in list(layer.named_parameters(recurse=False)):
                setattr(layer, name, nn.Parameter(parameter.detach().clone()))

    work.late = late


def freeze(index: int) -> Change:
    """Freeze one layer."""

    def apply(work: Work) -> None:
        layers(work)[index].weight.requires_grad_(False)

    return apply


def freeze_but_last(work: Work) -> None:
    """As for transfer learning, but nothing has been learned."""
    for layer in list(work.model)[:-1]:  # type: ignore[call-overload]
        layer.requires_grad_(False)


def rate(factor: float) -> Change:
    """Multiply the learning rate."""

    def apply(work: Work) -> None:
        build = work.optimizer

        def scaled(parameters: Any) -> torch.optim.Optimizer:
            optimizer = build(parameters)
            for group in optimizer.param_groups:
                group["lr"] *= factor
            return optimizer

        work.optimizer = scaled

    return apply


def after(*layers: nn.Module) -> Change:
    """Add layers at the end."""

    def apply(work: Work) -> None:
        work.model = nn.Sequential(*work.model, *layers)  # type: ignore[misc]

    return apply


def dropout(rate: float) -> Change:
    """Set the rate of dropout."""

    def apply(work: Work) -> None:
        for layer in work.model.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = rate

    return apply


def norms(change: Callable[[Any], Any]) -> Change:
    """Change batch norms."""

    def apply(work: Work) -> None:
        for layer in work.model.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                change(layer)

    return apply


def momentum_of_norms(value: float) -> Change:
    """Set the momentum of batch norms."""
    return norms(lambda norm: setattr(norm, "momentum", value))


def no_averages(norm: Any) -> None:
    """Let a batch norm keep no running averages."""
    norm.track_running_stats = False
    norm.running_mean = norm.running_var = norm.num_batches_tracked = None


def bias_before_norm(work: Work) -> None:
    """Give layers in front of batch norm a bias."""
    for layer in layers(work)[:-1]:
        layer.bias = nn.Parameter(torch.zeros(len(layer.weight)))


def dropout_before_norm(work: Work) -> None:
    """Put dropout in front of batch norm."""
    layers: list[nn.Module] = []
    for layer in work.model:  # type: ignore[attr-defined]
        layers += [nn.Dropout(0.5)] if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) else []
        layers.append(layer)
    work.model = nn.Sequential(*layers)


def squares(model: nn.Module) -> Tensor:
    """Return the sum of all squared weights."""
    return torch.stack([each.square().sum() for each in model.parameters()]).sum()


def tiny_data(rows: int, width: int, epochs: int) -> Change:
    """Few examples, a large network, no limit on it, many passes."""

    def apply(work: Work) -> Work:
        data, first, last = work.data, layers(work)[0], layers(work)[-1]
        few = (data.train[0][:rows], data.train[1][:rows])
        model = mlp([first.in_features, width, width, last.out_features])
        return replace(work, data=replace(data, train=few), model=model, epochs=epochs, schedule=None)

    return apply


def too_small(work: Work) -> None:
    """One unit in the middle."""
    first, last = layers(work)[0], layers(work)[-1]
    work.model = he(
        nn.Sequential(nn.Flatten(), nn.Linear(first.in_features, 1), nn.ReLU(), nn.Linear(1, last.out_features))
    )


def across(inner: Any, x: Tensor) -> Tensor:
    """Softmax over the batch."""
    out: Tensor = inner(x).softmax(0)
    return out


def mixed_batch(inner: Any, x: Tensor) -> Tensor:
    """Subtracts the mean of the batch's outputs, in evaluation too."""
    out = inner(x)
    return out - 2 * out.mean(0)  # type: ignore[no-any-return]


def always_dropping(inner: Any, x: Tensor) -> Tensor:
    """Dropout that evaluation mode does not switch off."""
    out: Tensor = inner(functional.dropout(x, 0.5))
    return out


def log_of_relu(outputs: Tensor, targets: Tensor) -> Tensor:
    """A hand-made cross-entropy that meets log(0)."""
    shares = outputs.relu() / outputs.relu().sum(1, keepdim=True)
    return -shares.gather(1, targets.unsqueeze(1)).log().mean()


def forgets_the_sign(outputs: Tensor, targets: Tensor) -> Tensor:
    """A likelihood that is made small instead of large."""
    return outputs.log_softmax(1).gather(1, targets.unsqueeze(1)).mean()


def fades(at: float) -> Callable[[int, int], float]:
    """A schedule that cuts the rate by 1,000 after a share of the steps."""
    return lambda step, steps: 1.0 if step < at * steps else 1e-3


def search(*rates: float, seeds: bool = True) -> Change:
    """Several members, each with a learning rate of its own, as a multiple, and (or not) with a seed of its own."""
    return setting(members=tuple((rate(factor), number if seeds else 0) for number, factor in enumerate(rates)))


def few_in_dev(count: int) -> Change:
    """Keep few examples of dev."""

    def apply(work: Work) -> None:
        data = work.data
        work.data = replace(data, dev=(data.dev[0][:count], data.dev[1][:count]))

    return apply
