"""No check cries wolf: networks of many kinds on real data, all checks on."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import caviar
from tests.diagnose.healthy import HEALTHY, Case, parts


def assert_healthy(report: caviar.CheckReport) -> None:
    assert report.ok, "\n".join(f"{each.code}: {each.words}" for each in report.failed)
    broken = [f"{each.code}: {each.words}" for each in report.results if "could not run" in each.words]
    assert not broken, broken
    assert sum(each.status == "pass" for each in report.results) >= 18


@pytest.mark.parametrize("make", HEALTHY.values(), ids=HEALTHY)
def test_no_false_alarm(make: Callable[[], Case]) -> None:
    torch.manual_seed(0)
    case = make()
    train, dev = parts(case.data)
    assert_healthy(caviar.check(case.model, train, case.loss, dev=dev, progress=False, **case.options))


@pytest.mark.parametrize("name", ["digits", "digits-pictures", "iris", "wine", "breast_cancer", "diabetes"])
def test_caviars_own_networks_on_samples(name: str) -> None:
    assert_healthy(caviar.check(f"sample:{name}", progress=False))


@pytest.mark.parametrize(
    ("file", "target"), [("adult_train.csv", "income"), ("california_housing.csv", "median_house_value")]
)
def test_caviars_own_networks_on_tables(shared_data: Path, file: str, target: str) -> None:
    assert_healthy(caviar.check(shared_data / file, target=target, progress=False))


def cifar(shared_data: Path, per_class: int = 60) -> tuple[Tensor, Tensor]:
    """Some pictures of four classes, (rows, 3, 32, 32) standardised by channel, in random order."""
    pictures, labels, names = list[np.ndarray](), list[int](), dict[str, int]()
    with tarfile.open(shared_data / "cifar10.tar.gz") as archive:
        for member in archive:
            _, split, name, file = (*member.name.split("/"), "", "", "")[:4]
            if len(names) == 4 and name not in names:
                break  # the archive is long
            if split == "train" and file.endswith(".jpg") and int(file[:4]) < per_class:
                content = archive.extractfile(member)
                assert content is not None
                pictures.append(np.asarray(Image.open(io.BytesIO(content.read()))))
                labels.append(names.setdefault(name, len(names)))
    inputs = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()
    inputs = (inputs - inputs.mean((0, 2, 3), keepdim=True)) / inputs.std((0, 2, 3), keepdim=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return inputs[order], torch.tensor(labels)[order]


def test_a_convolutional_net_on_cifar(shared_data: Path) -> None:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for fan_in, fan_out in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=False), nn.BatchNorm2d(fan_out), nn.ReLU(inplace=True)]
        layers.append(nn.MaxPool2d(2))
    model = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2), nn.Linear(1024, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    train, dev = parts(cifar(shared_data, 200))
    report = caviar.check(
        model, train, nn.CrossEntropyLoss(), dev=dev, optimizer=optimizer, batch_size=32, progress=False
    )
    assert_healthy(report)
