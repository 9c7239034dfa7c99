import math
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from caviar.core.errors import InputError
from caviar.nn import (
    ConvNet,
    DropConnectLinear,
    Dropout,
    build_model,
    drop_connect,
    dropout,
    monte_carlo_predict,
)
from caviar.nn.dropout import dropout_mask
from caviar.nn.settings import ConvNetSettings, MLPSettings

Form = Literal["inverted", "classic"]


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@given(st.sampled_from(["inverted", "classic"]), st.floats(0, 0.95), st.integers(0, 1000))
def test_the_mask_has_the_rate_and_the_form_its_scale(form: Form, rate: float, seed: int) -> None:
    (generator,) = generators(seed)
    outputs = dropout(torch.ones(200, 100), rate, form=form, generator=generator)
    kept = 1 / (1 - rate) if form == "inverted" else 1.0
    assert set(outputs.unique().tolist()) <= {0.0, torch.tensor(kept, dtype=torch.float32).item()} or torch.allclose(
        outputs[outputs > 0], torch.tensor(kept)
    )
    share = float((outputs == 0).double().mean())
    assert share == pytest.approx(rate, abs=5 * math.sqrt(rate * (1 - rate) / 20_000) + 1e-12)


@pytest.mark.parametrize("form", ["inverted", "classic"])
def test_training_and_evaluation_agree_in_expectation(form: Form) -> None:
    x = torch.linspace(1, 2, 50).expand(20_000, 50)
    (generator,) = generators(0)
    trained = dropout(x, 0.3, form=form, generator=generator).mean(0)
    evaluated = dropout(x, 0.3, training=False, form=form)[0]
    torch.testing.assert_close(trained, evaluated, rtol=0.02, atol=0)
    expected = x[0] * (0.7 if form == "classic" else 1.0)
    torch.testing.assert_close(evaluated, expected)


def test_plain_inverted_dropout_is_torchs() -> None:
    x = torch.randn(30, 20)
    torch.manual_seed(3)
    expected = nn.Dropout(0.4)(x)
    torch.manual_seed(3)
    assert torch.equal(Dropout(0.4)(x), expected)
    assert Dropout(0.4).eval()(x) is x


def test_gradients_pass_the_mask_only() -> None:
    x = torch.randn(8, 9, dtype=torch.float64, requires_grad=True)
    (generator,) = generators(1)
    outputs = dropout(x, 0.5, generator=generator)
    outputs.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.where(outputs == 0, 0.0, 2.0).to(torch.float64))


def test_whole_channels_are_dropped() -> None:
    (generator,) = generators(0)
    outputs = Dropout(0.5, spatial_axes=2, generator=generator)(torch.ones(40, 16, 3, 5))
    flat = outputs.flatten(2)
    assert torch.equal(flat.amin(2), flat.amax(2))
    assert 0.4 < float((flat[:, :, 0] == 0).float().mean()) < 0.6
    with pytest.raises(InputError, match="spatial dropout over 2 axes"):
        Dropout(0.5, spatial_axes=2)(torch.ones(4, 3, 2))


@pytest.mark.parametrize("form", ["inverted", "classic"])
def test_members_equal_separate_runs_whoever_stands_beside(form: Form) -> None:
    x = torch.randn(3, 10, 7, generator=generators(9)[0])
    rates = torch.tensor([0.0, 0.3, 0.8])
    together = dropout(x, rates, form=form, generator=generators(5, 6, 7))
    for member in range(3):
        alone = dropout(x[member], float(rates[member]), form=form, generator=generators(5 + member)[0])
        assert torch.equal(together[member], alone)
    pair = dropout(x[[2, 1]], rates[[2, 1]], form=form, generator=generators(7, 6))
    assert torch.equal(pair, together[[2, 1]])
    evaluated = dropout(x, rates, training=False, form=form)
    for member in range(3):
        assert torch.equal(evaluated[member], dropout(x[member], float(rates[member]), training=False, form=form))


def test_members_need_one_generator_each() -> None:
    with pytest.raises(InputError, match="2 generators arrived for inputs with 3 members"):
        dropout_mask((3, 4), 0.5, torch.zeros(()), generators(1, 2))


@pytest.mark.parametrize("rate", [-0.1, 1.0, math.nan, torch.tensor([0.1, 1.0])])
def test_bad_rates_are_refused(rate: float | Tensor) -> None:
    with pytest.raises(InputError, match="rate must be at least 0 and below 1"):
        Dropout(rate)
    with pytest.raises(InputError, match=r"unknown form of dropout 'inverse'. Did you mean 'inverted'"):
        Dropout(0.1, form="inverse")  # type: ignore[arg-type]


def test_drop_connect_drops_weights_and_is_linear_in_evaluation() -> None:
    (generator,) = generators(2)
    layer = DropConnectLinear(50, 40, 0.5, generator=generator)
    mask = dropout(torch.ones(40, 50), 0.5, generator=generators(2)[0])
    x = torch.randn(6, 50)
    torch.testing.assert_close(layer(x), x @ (layer.weight * mask).T + layer.bias)
    layer.eval()
    assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))
    weights = torch.randn(2, 4, 5)
    stacked = drop_connect(weights, torch.tensor([0.2, 0.7]), generator=generators(1, 2))
    assert torch.equal(stacked[1], drop_connect(weights[1], 0.7, generator=generators(2)[0]))


def test_monte_carlo_finds_mean_and_spread() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1), nn.Dropout(0.5)).train()
    nn.init.ones_(model[0].weight)  # type: ignore[arg-type]
    before = torch.get_rng_state()
    mean, std = monte_carlo_predict(model, torch.tensor([[2.0], [0.0]]), samples=4000, seed=0)
    assert torch.equal(before, torch.get_rng_state())
    assert float(mean[0]) == pytest.approx(2.0, abs=0.1)  # 0 or 4, each half the time
    assert float(std[0]) == pytest.approx(2.0, abs=0.05)
    assert [float(mean[1]), float(std[1])] == [0.0, 0.0]
    assert model.training
    assert int(model[1].num_batches_tracked) == 0  # type: ignore[arg-type]
    again = monte_carlo_predict(model, torch.tensor([[2.0], [0.0]]), samples=4000, seed=0)
    assert torch.equal(again.mean, mean)


def test_monte_carlo_equals_its_samples() -> None:
    model = nn.Sequential(nn.Linear(3, 5), Dropout(0.4, form="classic"), DropConnectLinear(5, 2, 0.5)).eval()
    batch = torch.randn(4, 3)
    mean, std = monte_carlo_predict(model, batch, samples=7, seed=1)
    torch.manual_seed(1)
    for layer in model[1:]:
        layer.train()
    samples = torch.stack([model(batch) for _ in range(7)])
    torch.testing.assert_close(mean, samples.mean(0))
    torch.testing.assert_close(std, samples.std(0))


def test_monte_carlo_needs_dropout_and_samples() -> None:
    with pytest.raises(InputError, match="has no dropout layer"):
        monte_carlo_predict(nn.Linear(2, 2), torch.zeros(1, 2))
    with pytest.raises(InputError, match="samples must be at least 2"):
        monte_carlo_predict(nn.Dropout(0.5), torch.zeros(1, 2), samples=1)


KINDS = {"inverted": nn.Dropout, "classic": Dropout, "alpha": nn.AlphaDropout, "dropconnect": DropConnectLinear}


@pytest.mark.parametrize("form", KINDS)
def test_networks_are_built_with_every_form(form: Literal["inverted", "classic", "alpha", "dropconnect"]) -> None:
    for settings, shape in (
        (MLPSettings(widths=(6, 5), dropout=0.5, dropout_form=form), (4,)),
        (ConvNetSettings(channels=(4,), hidden=(5,), dropout=0.5, dropout_form=form), (2, 6, 6)),
    ):
        model = build_model(settings, shape, 3, generators(0)[0])
        assert sum(type(module) is KINDS[form] for module in model.modules()) == 2
        inputs = torch.randn(9, *shape)
        assert not torch.equal(model(inputs), model(inputs))
        model.eval()
        assert torch.equal(model(inputs), model(inputs))


def test_dropped_channels_stand_at_the_end_of_each_block() -> None:
    model = ConvNet((3, 8, 8), (4, 5), (), 2, spatial_dropout=0.5)
    names = [f"{name}{i}" for i in (1, 2) for name in ("conv", "norm", "pool", "relu", "dropout")]
    assert list(dict(model.blocks.named_children())) == names


def test_rates_of_members_keep_the_number_type() -> None:
    rates = torch.tensor([0.1, 0.5], dtype=torch.float64)
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        for form in ("inverted", "classic"):
            layer = Dropout(rates, form=form, generator=generators(0, 1))  # type: ignore[arg-type]
            assert layer(torch.ones(2, 3, 4, dtype=dtype)).dtype == dtype
            assert layer.eval()(torch.ones(2, 3, 4, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("rate", [1.0, -0.1, float("nan")])
def test_rates_out_of_range_are_refused(rate: float) -> None:
    for drop in (dropout, drop_connect):
        with pytest.raises(InputError, match="rate must be at least 0 and below 1"):
            drop(torch.ones(2, 3), rate)


def test_an_unknown_form_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"unknown form of dropout 'clasic'\. Did you mean 'classic'"):
        dropout(torch.ones(2, 3), 0.1, form="clasic")  # type: ignore[arg-type]
