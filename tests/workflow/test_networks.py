"""Every activation, initialiser, norm, dropout, loss and regulariser in a run on real data, through to the bundle."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import caviar
from caviar.nn.catalogue import ACTIVATIONS, DROPOUTS, INITIALISERS, LOSSES, NORMS
from caviar.nn.catalogue import REGULARIZERS as LIMITS

NUMBER_LOSSES = ("mean_squared_error", "huber")
SMALL: dict[str, Any] = {"training.batch_size": 128, "device.name": "cpu"}
CASES: list[tuple[str, dict[str, Any]]] = [
    *[("digits", {"model.activation": name}) for name in ACTIVATIONS],
    *[("digits", {"model.init": name}) for name in INITIALISERS],
    *[("digits", {"model.dropout_form": name, "model.dropout": 0.3}) for name in DROPOUTS],
    *[("digits", {"model.norm": name}) for name in ("none", "batch", "layer")],
    *[("digits-pictures", {"model.norm": name}) for name in NORMS],
    *[("digits-pictures", {"model.activation": name}) for name in ("gelu", "maxout", "prelu")],
    *[("digits-pictures", {"model.init": name}) for name in ("lsuv", "data_dependent", "orthogonal")],
    ("digits-pictures", {"model.spatial_dropout": 0.2}),
    *[("digits", {"loss.name": name}) for name in LOSSES if name not in NUMBER_LOSSES],
    *[("digits", {"loss.name": name, "loss.class_weights": "balanced"}) for name in ("cross_entropy", "hinge")],
    *[("diabetes", {"loss.name": name}) for name in NUMBER_LOSSES],
    *[("digits", {f"regularization.{name}": 0.5 if name == "max_norm" else 1e-3}) for name in LIMITS],
]


@pytest.mark.parametrize(("sample", "settings"), CASES, ids=lambda value: str(value).strip("{}"))
def test_a_run_trains_and_hands_over(tmp_path: Path, sample: str, settings: dict[str, Any]) -> None:
    narrow = {"model.channels": [4, 8]} if sample == "digits-pictures" else {"model.widths": [12]}
    every = SMALL | narrow | settings
    run = caviar.train(f"sample:{sample}", epochs=1, settings=every, progress=False, runs_dir=tmp_path)
    again = caviar.load(run.path)
    predicted = again.predict(f"sample:{sample}")
    if predicted.probabilities is not None:
        np.testing.assert_allclose(predicted.probabilities.sum(axis=1), 1, atol=1e-5)
    assert np.array_equal(np.asarray(predicted), np.asarray(run.bundle.predict(f"sample:{sample}")))
    text = (run.path / "recipe.toml").read_text()
    assert 'init = "auto"' not in text
    assert 'name = "auto"' not in text
    rerun = caviar.train(run.path / "recipe.toml", progress=False, runs_dir=tmp_path)
    first, second = ((each.path / "bundle" / "network.safetensors").read_bytes() for each in (run, rerun))
    assert first == second


def test_what_training_learns_with_other_losses_is_good(tmp_path: Path) -> None:
    for name in ("hinge", "logistic"):
        run = caviar.train("sample:digits", epochs=12, settings={"loss.name": name}, progress=False, runs_dir=tmp_path)
        assert run.metrics["accuracy"]["value"] > 0.93
        notices = run.bundle.predict("sample:digits").notices
        assert any("not calibrated" in notice for notice in notices) == (name == "hinge")


def test_limits_hold_in_what_is_handed_over(tmp_path: Path) -> None:
    settings = SMALL | {"model.widths": [12], "regularization.max_norm": 0.5}
    run = caviar.train("sample:digits", epochs=2, settings=settings, progress=False, runs_dir=tmp_path)
    weights = [p for name, p in run.bundle.network.named_parameters() if p.dim() == 2]
    assert len(weights) == 2
    assert all((weight.norm(dim=1) <= 0.5001).all() for weight in weights)


def test_an_old_recipe_is_read(tmp_path: Path) -> None:
    path = tmp_path / "old.toml"
    path.write_text(
        'version = 1\n[data]\nsource = "sample:diabetes"\n[model]\nname = "mlp"\nwidths = [8]\nactivation = "tanh"\n'
        'norm = "batch"\ndropout = 0.0\n[loss]\nname = "mean_squared_error"\nlabel_smoothing = 0.0\n'
        "[training]\nepochs = 1\n"
    )
    run = caviar.train(path, progress=False, runs_dir=tmp_path)
    assert run.recipe.loss.name == "mean_squared_error"
    assert run.recipe.model.init == "xavier"
