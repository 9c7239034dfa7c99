"""Losses other than the usual learn, limits hold in what is handed over, and old recipes are read."""

from pathlib import Path

import caviar


def test_what_training_learns_with_other_losses_is_good(tmp_path: Path) -> None:
    for name in ("hinge", "logistic"):
        run = caviar.train("sample:digits", epochs=12, settings={"loss.name": name}, progress=False, runs_dir=tmp_path)
        assert run.metrics["accuracy"]["value"] > 0.93
        notices = run.bundle.predict("sample:digits").notices
        assert any("not calibrated" in notice for notice in notices) == (name == "hinge")


def test_limits_hold_in_what_is_handed_over(tmp_path: Path) -> None:
    settings = {"training.batch_size": 128, "model.widths": [12], "regularization.max_norm": 0.5}
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
