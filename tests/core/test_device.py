import pytest
import torch

from caviar.core.device import resolve_device
from caviar.core.errors import InputError


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a CPU only."""
    pretend(monkeypatch)


def pretend(monkeypatch: pytest.MonkeyPatch, *, cuda: int = 0, mps: bool = False) -> None:
    """Let torch say that the machine has so many CUDA devices, and MPS or not."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: cuda - 1)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.usefixtures("machine")
def test_a_machine_with_a_cpu_only() -> None:
    assert resolve_device("auto") == resolve_device("cpu") == torch.device("cpu")


def test_auto_takes_the_first_of_cuda_mps_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, cuda=2, mps=True)
    assert resolve_device("auto") == torch.device("cuda", 1)
    pretend(monkeypatch, mps=True)
    assert resolve_device("auto") == torch.device("mps")


def test_devices_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, cuda=2, mps=True)
    for name in ("cuda", "cuda:0", "cuda:1", "mps", "cpu"):
        assert resolve_device(name) == torch.device(name)


@pytest.mark.parametrize("name", ["cuda:2", "cuda:99"])
def test_a_cuda_device_too_many(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pretend(monkeypatch, cuda=2)
    with pytest.raises(InputError, match=f"device '{name}' is absent: CUDA devices found here: 2"):
        resolve_device(name)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps"])
def test_an_absent_device_names_the_way_out(name: str) -> None:
    with pytest.raises(InputError, match=f"device '{name}' is absent.*Use --device cpu, or auto."):
        resolve_device(name)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    "name",
    ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:²", "cuda:0:1", "cuda:0\n", "cpu:1", "mps:0", "CUDA", "meta"],
)
def test_what_is_no_device_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="unknown device"):
        resolve_device(name)


@pytest.mark.usefixtures("machine")
def test_a_misspelt_device_is_offered_the_nearest() -> None:
    with pytest.raises(InputError, match="Did you mean 'cuda'"):
        resolve_device("CUDA")
