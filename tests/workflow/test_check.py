"""caviar.check: everything of the user's stays as it was, all forms of data work, bad input is refused in words."""

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import caviar
from caviar.core.errors import InputError
from tests.diagnose.healthy import conv, digits, mlp, parts, pictures
from tests.workflow.small import table

CE = nn.CrossEntropyLoss()
QUICK = {"progress": False}


class Pairs(Dataset[Any]):
    """A map-style data set that draws from every global stream at each item."""

    def __init__(self, data: tuple[Tensor, Tensor]) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data[0])

    def __getitem__(self, row: int) -> Any:
        noise = random.random() + np.random.rand() + float(torch.rand(()))
        return self.data[0][row] + 1e-6 * noise, int(self.data[1][row])


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield from zip(*digits(), strict=True)


def streams() -> tuple[Any, ...]:
    return random.getstate(), [str(part) for part in np.random.get_state()], torch.get_rng_state().tolist()


def test_nothing_of_the_users_is_touched() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(*conv(), nn.Identity())
    model[1].eval()
    calls: list[int] = []
    handle = model[0].register_forward_hook(lambda *_: calls.append(1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    inputs, targets = pictures()
    model(inputs[:4]).sum().backward()
    calls.clear()
    before = copy.deepcopy(model.state_dict())
    gradients = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    modes = [module.training for module in model.modules()]
    hooks = [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()]
    held, settings = copy.deepcopy(optimizer.state_dict()), (inputs.clone(), targets.clone())
    generator = torch.Generator().manual_seed(5)
    loader = DataLoader(Pairs((inputs, targets)), batch_size=50, shuffle=True, generator=generator)
    drawn, state, threads = generator.get_state(), streams(), torch.get_num_threads()
    report = caviar.check(model, loader, CE, optimizer=optimizer, dev=(inputs[:200], targets[:200]), **QUICK)
    assert len(report.results) > 25
    assert streams() == state
    assert torch.equal(generator.get_state(), drawn)
    assert torch.get_num_threads() == threads
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True) if p.grad is not None)
    assert [module.training for module in model.modules()] == modes
    assert [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()] == hooks
    assert str(optimizer.state_dict()) == str(held)
    assert torch.equal(inputs, settings[0])
    assert torch.equal(targets, settings[1])
    handle.remove()


def test_the_same_seed_says_the_same() -> None:
    torch.manual_seed(0)
    model = mlp([64, 64, 10], dropout=0.2)
    first, second = (caviar.check(model, digits(), CE, **QUICK) for _ in range(2))
    assert [(r.code, r.status, r.words) for r in first.results] == [(r.code, r.status, r.words) for r in second.results]


FORMS: dict[str, Any] = {
    "tensors": digits,
    "arrays": lambda: tuple(part.numpy() for part in digits()),
    "float64 arrays": lambda: (digits()[0].numpy().astype(np.float64), digits()[1].numpy()),
    "a list of two": lambda: list(digits()),
    "tensor data set": lambda: TensorDataset(*digits()),
    "map-style data set": lambda: Pairs(digits()),
    "loader": lambda: DataLoader(TensorDataset(*digits()), batch_size=64, shuffle=True),
    "stream": lambda: DataLoader(Stream(), batch_size=100),
    "batches": lambda: [
        (digits()[0][start : start + 100], digits()[1][start : start + 100]) for start in (0, 100, 200)
    ],
}


@pytest.mark.parametrize("make", FORMS.values(), ids=FORMS)
def test_forms_of_data(make: Any) -> None:
    torch.manual_seed(0)
    slow = ["FIT101", "DATA001", "DATA105", "GRAD101"]
    report = caviar.check(mlp([64, 64, 10]), make(), CE, mute=slow, **QUICK)
    assert report.ok, str(report)


def test_a_loader_tells_its_batch_size() -> None:
    torch.manual_seed(0)
    data = TensorDataset(*(part[:129] for part in digits()))
    model = mlp([64, 64, 10], norm=True)
    others = [each.code for each in caviar.check(model, data, CE, **QUICK).results if each.code != "NORM003"]
    found = caviar.check(model, DataLoader(data, batch_size=64), CE, mute=others, **QUICK)
    dropped = caviar.check(model, DataLoader(data, batch_size=64, drop_last=True), CE, mute=others, **QUICK)
    assert [found.results[0].status, dropped.results[0].status] == ["fail", "pass"]


def test_a_loss_that_reaches_into_the_users_model_leaves_no_gradient_there() -> None:
    torch.manual_seed(0)
    model = mlp([64, 64, 10])

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return CE(outputs, targets) + 1e-4 * sum((p.square().sum() for p in model.parameters()), torch.zeros(()))

    assert caviar.check(model, digits(), loss, **QUICK).result("FIT101").status == "pass"
    assert all(parameter.grad is None for parameter in model.parameters())


def test_muted_checks_do_not_run() -> None:
    report = caviar.check(mlp([64, 64, 10]), digits(), CE, mute=["FIT101", "DATA002"], **QUICK)
    assert not {"FIT101", "DATA002"} & {each.code for each in report.results}
    with pytest.raises(InputError, match="Did you mean 'FIT101'"):
        caviar.check(mlp([64, 64, 10]), digits(), CE, mute=["FIT1O1"], **QUICK)
    with pytest.raises(InputError, match="unknown check"):
        report.result("FIT101")


def test_recipes_frames_and_modules_of_ones_own() -> None:
    own = caviar.check(table(400), target="label", progress=False)
    assert own.result("GRAD007").status == "pass"
    raw = parts(digits())[0]
    module = caviar.check(mlp([64, 64, 10]), (raw[0].numpy(), raw[1].numpy()), **QUICK)
    assert module.result("NUM003").numbers["loss_takes"] == "logits"
    high = caviar.check("sample:digits", settings={"optimizer.learning_rate": 100.0}, **QUICK)
    assert [each.code for each in high.failed] == ["LR002"]
    penalised = caviar.check("sample:iris", settings={"regularization.l2": 1e-3}, **QUICK)
    assert penalised.result("REG101").status == "pass"
    drowned = caviar.check("sample:iris", settings={"regularization.l2": 1e3}, **QUICK)
    assert drowned.result("REG002").status == "fail"


def test_augmentation_of_a_recipe_is_looked_at() -> None:
    mild = caviar.check("sample:digits-pictures", settings={"augment.crop_padding": 1}, **QUICK)
    assert mild.result("DATA014").status == "pass", str(mild)
    wild = {"augment.rotate": 180.0, "augment.flip": 0.5}
    assert caviar.check("sample:digits-pictures", settings=wild, **QUICK).result("DATA014").status == "fail"


BAD: dict[str, tuple[Any, str]] = {
    "no module": (lambda: caviar.check("x", digits(), CE), "is no torch.nn.Module"),
    "two kinds of call": (lambda: caviar.check(mlp([64, 10]), digits(), CE, target="y"), "target cannot be used here"),
    "optimizer without a loss": (
        lambda: caviar.check("sample:iris", optimizer=torch.optim.SGD(mlp([4, 3]).parameters(), lr=1)),
        "optimizer cannot be used here",
    ),
    "data without a loss": (lambda: caviar.check(digits()[0], digits()[1]), "is no torch.nn.Module"),
    "no data": (lambda: caviar.check(mlp([64, 10]), None, CE), "needs data"),
    "sizes": (lambda: caviar.check(mlp([63, 64, 10]), digits(), CE), r"layer '0' \(Linear\)"),
    "too few outputs": (lambda: caviar.check(mlp([64, 64, 9]), digits(), CE), "class numbers from 0 to 9"),
    "loss of many numbers": (
        lambda: caviar.check(mlp([64, 64, 10]), digits(), nn.CrossEntropyLoss(reduction="none")),
        "must give one number",
    ),
    "loss that refuses": (lambda: caviar.check(mlp([64, 64, 10]), digits(), nn.MSELoss()), "the loss refuses outputs"),
    "lengths": (lambda: caviar.check(mlp([64, 10]), (digits()[0], digits()[1][:9]), CE), "1797 inputs but 9 targets"),
    "no pairs": (lambda: caviar.check(mlp([64, 10]), [1, 2, 3], CE), "a batch is a int"),
    "items": (lambda: caviar.check(mlp([64, 10]), TensorDataset(digits()[0]), CE), "every item must be a pair"),
    "nothing": (lambda: caviar.check(mlp([64, 10]), [], CE), "gives no batch"),
    "one example": (lambda: caviar.check(mlp([64, 10]), tuple(p[:1] for p in digits()), CE), "checks need 2"),
    "a number": (lambda: caviar.check(mlp([64, 10]), 7, CE), "data is a int"),
    "no file": (lambda: caviar.check("nowhere.csv", target="y"), "does not exist"),
    "dicts": (
        lambda: caviar.check(mlp([64, 10]), [({"x": digits()[0]}, digits()[1])], CE),
        "checks need one tensor of each",
    ),
}


@pytest.mark.parametrize(("call", "words"), BAD.values(), ids=BAD)
def test_bad_input(call: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        call()


def test_a_check_that_cannot_run_is_skipped_with_its_reason() -> None:
    class Stubborn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = mlp([64, 64, 10])

        def forward(self, x: Tensor) -> Tensor:
            if len(x) == 20:
                raise RuntimeError("not twenty")
            out: Tensor = self.inner(x)
            return out

    torch.manual_seed(0)
    result = caviar.check(Stubborn(), digits(), CE, **QUICK).result("FIT101")
    assert (result.status, result.words) == ("skipped", "the check could not run: RuntimeError: not twenty")
