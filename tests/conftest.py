"""Fixtures that several rooms' tests share."""

import os
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine must not fail a test, and a test must not fail on one day only.
settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the project; tests that need it skip where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the shared data folder is not beside the project")
    return folder


@pytest.fixture(autouse=True)
def endless_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing hang on how slow or busy the machine is: checks take all their steps, epochs are never long."""
    monkeypatch.setattr("caviar.diagnose.checks_brief.Clock.is_over", False)
    for module in ("loop", "members"):
        monkeypatch.setattr(import_module(f"caviar.train.{module}"), "MID_EPOCH_SECONDS", 1e9)


@pytest.fixture(autouse=True)
def patient_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for no disk: that files are synced, and when, is tested where it is what matters."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test away from the user's cache."""
    monkeypatch.setenv("CAVIAR_CACHE", str(tmp_path_factory.mktemp("cache")))
