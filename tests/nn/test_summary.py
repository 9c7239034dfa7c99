import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from caviar.core.errors import InputError
from caviar.nn import build_model, check_outputs, count_parameters, has_batch_norm, has_convolutions, summarise
from caviar.nn.settings import ConvNetSettings, MLPSettings
from caviar.nn.summary import LayerSummary


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_a_convnet_layer_by_layer() -> None:
    model = build_model(ConvNetSettings(channels=(16, 32), hidden=(20,), dropout=0.0), (3, 33, 32), 10, generator())
    assert summarise(model, (3, 33, 32)) == [
        LayerSummary("blocks.conv1", "Conv2d", (16, 33, 32), 3 * 16 * 9),
        LayerSummary("blocks.norm1", "BatchNorm2d", (16, 33, 32), 32),
        LayerSummary("blocks.pool1", "MaxPool2d", (16, 16, 16), 0),
        LayerSummary("blocks.relu1", "ReLU", (16, 16, 16), 0),
        LayerSummary("blocks.conv2", "Conv2d", (32, 16, 16), 16 * 32 * 9),
        LayerSummary("blocks.norm2", "BatchNorm2d", (32, 16, 16), 64),
        LayerSummary("blocks.pool2", "MaxPool2d", (32, 8, 8), 0),
        LayerSummary("blocks.relu2", "ReLU", (32, 8, 8), 0),
        LayerSummary("flatten", "Flatten", (2048,), 0),
        LayerSummary("hidden.linear1", "Linear", (20,), 2048 * 20 + 20),
        LayerSummary("hidden.relu1", "ReLU", (20,), 0),
        LayerSummary("output", "Linear", (10,), 210),
    ]


class Odd(nn.Module):
    """Own parameter, a shared layer, an attention whose projection is never called, a counter, and a global draw."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(4, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.shared = nn.Linear(8, 8)
        self.lstm = nn.LSTM(8, 3, batch_first=True)
        self.output = nn.Linear(3, 2)
        self.register_buffer("calls", torch.zeros(()))
        self.unused = nn.Linear(5, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls = self.calls + 1
        x = inputs + self.position + torch.rand(())
        x, _ = self.attention(x, x, x)
        x = self.shared(self.shared(x))
        x, _ = self.lstm(x)
        return self.output(x[:, -1])  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (Odd(), (4, 8)),
        (build_model(ConvNetSettings(), (3, 8, 8), 2, generator()), (3, 8, 8)),
        (build_model(MLPSettings(widths=(4,), dropout=0.2), (6,), 2, generator(), (3, 3)), (6,)),
        (nn.Linear(3, 2), (3,)),
    ],
)
def test_counts_add_up_and_nothing_changes(model: nn.Module, shape: tuple[int, ...]) -> None:
    model.train()
    for module in list(model.children())[:1]:
        module.eval()
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    random = torch.get_rng_state()
    layers = summarise(model, shape)
    assert sum(layer.parameters for layer in layers) == count_parameters(model)
    assert count_parameters(model) == sum(p.numel() for p in model.parameters())
    assert torch.equal(random, torch.get_rng_state())
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_an_odd_module_lists() -> None:
    layers = {layer.name: layer for layer in summarise(Odd(), (4, 8))}
    assert layers["(model)"] == LayerSummary("(model)", "Odd", (2,), 32)
    assert layers["attention"].output_shape == (4, 8)
    assert layers["attention.out_proj"].output_shape is None
    assert layers["lstm"].output_shape == (4, 3)
    assert layers["unused"] == LayerSummary("unused", "Linear", None, 30)
    assert list(layers)[:3] == ["attention", "shared", "lstm"]


def test_a_shared_parameter_counts_once() -> None:
    tied = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    tied[1].weight = tied[0].weight
    assert [layer.parameters for layer in summarise(tied, (4,))] == [16, 0]


def test_a_size_that_does_not_fit_names_the_layer() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Sequential(nn.ReLU(), nn.Linear(9, 2)))
    with pytest.raises(InputError, match=r"batch of shape \(2, 4\).*'1\.1' \(Linear\), given \(2, 8\)"):
        summarise(model, (4,))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(module.training for module in model.modules())


class Broken(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        raise ZeroDivisionError("by zero")


def test_a_model_that_fails_by_itself_is_named() -> None:
    with pytest.raises(InputError, match=r"Broken cannot take.*ZeroDivisionError: by zero"):
        summarise(Broken(), (4,))


def test_lazy_layers_are_refused() -> None:
    with pytest.raises(InputError, match="lazy"):
        summarise(nn.LazyLinear(3), (4,))


def test_token_inputs() -> None:
    assert summarise(nn.Embedding(5, 3), (7,), torch.int64) == [LayerSummary("(model)", "Embedding", (7, 3), 15)]


def test_small_questions() -> None:
    assert has_batch_norm(nn.Sequential(nn.Sequential(nn.BatchNorm1d(2))))
    assert not has_batch_norm(nn.Sequential(nn.LayerNorm(2), nn.InstanceNorm1d(2), nn.GroupNorm(1, 2)))
    assert has_convolutions(nn.Sequential(nn.Conv1d(1, 1, 1)))
    assert not has_convolutions(nn.Linear(1, 1))


class Returns(nn.Module):
    """Passes the batch to a function."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Tensor) -> Any:
        return self.function(inputs)


def test_outputs_that_fit_pass() -> None:
    batch = torch.zeros(5, 3)
    check_outputs(nn.Linear(3, 4), batch, "classification", 4)
    check_outputs(nn.Linear(3, 1), batch, "regression")
    check_outputs(Returns(lambda x: x[:, 0]), batch, "regression", None)


@pytest.mark.parametrize(
    ("function", "classes", "words"),
    [
        (lambda x: (x, x), 3, r"into a tuple.*\(5, 3\).*one tensor only"),
        (lambda x: {"logits": x}, 3, "into a dict"),
        (lambda x: None, 3, "into a NoneType"),
        (lambda x: x.argmax(1), 3, r"torch\.int64.*scores"),
        (lambda x: x.sum(), 3, r"shape \(\).*first axis"),
        (lambda x: x.T, 3, r"shape \(3, 5\).*needs \(5, 3\).*first axis"),
        (lambda x: x[:, 0], 2, r"shape \(5,\).*2 outputs instead of one"),
        (lambda x: x[:, :1], 2, r"shape \(5, 1\).*2 outputs instead of one"),
        (lambda x: x[:, :1], 3, "3 outputs, one for each class"),
        (lambda x: x, 4, r"shape \(5, 3\).*needs \(5, 4\).*4 outputs"),
        (lambda x: x[:, :, None], 3, "Flatten or pool"),
        (lambda x: x, None, r"regression.*needs \(5,\) or \(5, 1\).*single output"),
        (lambda x: x @ torch.zeros(7, 2), 2, r"Returns cannot take a batch of shape \(5, 3\)"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(function: Any, classes: int | None, words: str) -> None:
    task = "regression" if classes is None else "classification"
    with pytest.raises(InputError, match=words):
        check_outputs(Returns(function), torch.zeros(5, 3), task, classes)  # type: ignore[arg-type]
