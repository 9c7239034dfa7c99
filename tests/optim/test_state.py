"""Save, load, go on: equal to never having stopped, byte for byte, through a real file."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from caviar.core.errors import InputError
from caviar.optim import build_optimizer, load_optimizer_tensors, optimizer_tensors, set_learning_rate
from caviar.optim.settings import AdamSettings, AdamWSettings, SGDSettings

Settings = SGDSettings | AdamSettings | AdamWSettings

CASES: list[Settings] = [
    SGDSettings(learning_rate=0.05, momentum=0.0),
    SGDSettings(learning_rate=0.05),
    SGDSettings(learning_rate=0.05, nesterov=True, weight_decay=0.01),
    AdamSettings(learning_rate=0.001),
    AdamSettings(learning_rate=0.001, weight_decay=0.1, betas=(0.5, 0.75)),
    AdamWSettings(learning_rate=0.001),
    AdamWSettings(learning_rate=0.001, weight_decay=0.0),
]


def conv_net(layout: torch.memory_format, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(7)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.Conv2d(6, 5, 1),
        nn.Flatten(), nn.Linear(5 * 16, 4),
    )  # fmt: skip
    return net.to(dtype=dtype).to(memory_format=layout)  # type: ignore[call-overload,no-any-return]


def train(model: nn.Module, optimizer: Optimizer, steps: range) -> None:
    dtype = next(model.parameters()).dtype
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(6, 3, 8, 8, generator=generator).to(dtype)
        targets = torch.randint(4, (6,), generator=generator)
        set_learning_rate(optimizer, 0.01 / (1 + step))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()


def through_file(optimizer: Optimizer, folder: Path) -> tuple[dict[str, Tensor], Any]:
    tensors, data = optimizer_tensors(optimizer)
    save_file(tensors, folder / "state.safetensors")
    return load_file(folder / "state.safetensors"), json.loads(json.dumps(data, allow_nan=False))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("settings", CASES, ids=repr)
@pytest.mark.parametrize("kernel", ["fused", "foreach"])
def test_saved_loaded_and_gone_on_equals_never_stopped(
    settings: Settings, layout: torch.memory_format, kernel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernel == "foreach":
        monkeypatch.setattr("caviar.optim.build.kernel_options", lambda model: {"foreach": True})
    model = conv_net(layout)
    optimizer = build_optimizer(settings, model)
    train(model, optimizer, range(20))
    tensors, data = through_file(optimizer, tmp_path)

    resumed_model = conv_net(layout)
    resumed_model.load_state_dict(model.state_dict())
    resumed = build_optimizer(settings, resumed_model)
    load_optimizer_tensors(resumed, tensors, data)
    assert optimizer_tensors(resumed)[1] == optimizer_tensors(optimizer)[1]
    for parameter, values in resumed.state.items():
        for value in values.values():
            if value is not None and value.dim() > 0:
                assert value.stride() == parameter.stride()

    train(model, optimizer, range(20, 40))
    train(resumed_model, resumed, range(20, 40))
    for name, value in model.state_dict().items():
        assert torch.equal(value, resumed_model.state_dict()[name]), name
    first, second = optimizer_tensors(optimizer)[0], optimizer_tensors(resumed)[0]
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("settings", [SGDSettings(learning_rate=0.05), AdamWSettings(learning_rate=0.001)], ids=repr)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_other_float_types(settings: Settings, dtype: torch.dtype, tmp_path: Path) -> None:
    model = conv_net(torch.channels_last, dtype)
    optimizer = build_optimizer(settings, model)
    train(model, optimizer, range(3))
    tensors, data = through_file(optimizer, tmp_path)
    resumed = build_optimizer(settings, copy.deepcopy(model))
    load_optimizer_tensors(resumed, tensors, data)
    again = optimizer_tensors(resumed)[0]
    assert all(torch.equal(tensors[name], again[name]) and tensors[name].dtype == again[name].dtype for name in tensors)


def test_a_long_step_count_is_exact(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    optimizer = build_optimizer(AdamWSettings(learning_rate=0.001), model)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    for values in optimizer.state.values():
        values["step"].fill_(16_777_215.0)
    tensors, data = through_file(optimizer, tmp_path)
    fresh = build_optimizer(AdamWSettings(learning_rate=0.001), nn.Linear(2, 2))
    load_optimizer_tensors(fresh, tensors, data)
    assert [float(values["step"]) for values in fresh.state.values()] == [16_777_215.0] * 2


def test_a_fresh_state_round_trips(tmp_path: Path) -> None:
    for settings in CASES:
        optimizer = build_optimizer(settings, conv_net(torch.contiguous_format))
        tensors, data = through_file(optimizer, tmp_path)
        load_optimizer_tensors(build_optimizer(settings, conv_net(torch.contiguous_format)), tensors, data)


def test_loading_copies(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    optimizer = build_optimizer(AdamWSettings(learning_rate=0.001), model)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    tensors, data = through_file(optimizer, tmp_path)
    load_optimizer_tensors(optimizer, tensors, data)
    kept = {name: value.clone() for name, value in tensors.items()}
    optimizer.step()
    assert all(torch.equal(tensors[name], kept[name]) for name in tensors)


def stepped() -> tuple[Optimizer, dict[str, Tensor], dict[str, Any]]:
    model = nn.Linear(3, 2)
    optimizer = build_optimizer(AdamWSettings(learning_rate=0.001), model)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    tensors, data = optimizer_tensors(optimizer)
    return optimizer, {name: value.clone() for name, value in tensors.items()}, json.loads(json.dumps(data))


def test_the_names() -> None:
    _, tensors, data = stepped()
    expected = [f"state/{index}/{key}" for index in (0, 1) for key in ("exp_avg", "exp_avg_sq", "step")]
    assert sorted(tensors) == data["tensors"] == expected
    assert data["rule"] == "AdamW"


def spoil(tensors: dict[str, Tensor], data: dict[str, Any], fault: str) -> None:
    if fault == "missing":
        del tensors["state/1/exp_avg"]
    elif fault == "extra":
        tensors["state/1/surprise"] = torch.zeros(2)
    elif fault == "shape":
        tensors["state/1/exp_avg"] = torch.zeros(3)
    elif fault == "index":
        tensors["state/7/exp_avg"] = torch.zeros(2)
        data["tensors"].append("state/7/exp_avg")
    elif fault == "name":
        tensors["state/../x"] = torch.zeros(2)
        data["tensors"].append("state/../x")
    elif fault == "rule":
        data["rule"] = "SGD"
    elif fault == "shapes":
        data["shapes"][0][0] = [4, 2]
    elif fault == "count":
        data["shapes"][0].append([4, 2])
    elif fault == "grouping":
        data["shapes"] = [[*data["shapes"][0], *data["shapes"][1]]]
    elif fault == "option":
        del data["groups"][0]["betas"]
    elif fault == "text":
        data["groups"][0]["lr"] = "fast"
    elif fault == "null":
        data.update(shapes=[None], tensors=[[]])
    else:
        data.clear()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("missing", "lacks 'state/1/exp_avg'"),
        ("extra", "'state/1/surprise'"),
        ("shape", r"shape \(3,\), its parameter \(2,\)"),
        ("index", "state/<0 to 1>"),
        ("name", r"state/\.\./x"),
        ("rule", "'SGD', but this run uses 'AdamW'"),
        ("shapes", r"parameter 0 had shape \[4, 2\], here it has \[2, 3\]"),
        ("count", "3 of them, while this model has 2"),
        ("grouping", "grouped differently"),
        ("option", "options of AdamW"),
        ("text", "options of AdamW"),
        ("null", "0 of them"),
        ("empty", "is of None"),
    ],
)
def test_what_does_not_match_is_refused_and_changes_nothing(fault: str, words: str) -> None:
    optimizer, tensors, data = stepped()
    before = {name: value.clone() for name, value in optimizer_tensors(optimizer)[0].items()}
    spoil(tensors, data, fault)
    with pytest.raises(InputError, match=words):
        load_optimizer_tensors(optimizer, tensors, data)
    after = optimizer_tensors(optimizer)[0]
    assert all(torch.equal(before[name], after[name]) for name in before)
