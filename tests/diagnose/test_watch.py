"""A user's own loop under watch: what is seen, what is said, and that nothing stays behind."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import caviar
from caviar.core.errors import InputError
from caviar.diagnose.quantities import QUANTITIES
from caviar.diagnose.watch import Watch
from caviar.optim import build_optimizer
from caviar.optim.settings import SGDSettings

CE = nn.functional.cross_entropy


def data(rows: int = 400, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.randn(rows, 8, generator=draw)
    return inputs, inputs[:, :4].argmax(1)


def net(*extra: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4), *extra)


def loop(
    model: nn.Module,
    optimizer: Any,
    epochs: int = 6,
    *,
    loss: Callable[[Tensor, Tensor], Tensor] = CE,
    zero: bool = True,
    back_to_training: bool = True,
    batch: bool = False,
    change: Callable[[int, Tensor], Tensor] = lambda step, inputs: inputs,
    watched: bool = True,
    **options: Any,
) -> Watch | None:
    (inputs, labels), (dev_inputs, dev_labels) = data(), data(200, 1)
    watch = caviar.watch(model, optimizer, quiet=True, **options) if watched else None
    step = 0
    if watch is not None:
        watch.__enter__()
    for epoch in range(epochs):
        for rows in torch.randperm(400, generator=torch.Generator().manual_seed(epoch)).split(20):
            x, y = change(step, inputs[rows]), labels[rows]
            step += 1
            if zero:
                optimizer.zero_grad()
            value = loss(model(x), y)
            value.backward()
            optimizer.step()
            if watch is not None:
                watch.step(value, (x, y)) if batch else watch.step(value)
        model.eval()
        with torch.no_grad():
            outputs = model(dev_inputs)
        if back_to_training:
            model.train()
        if watch is not None:
            right = (outputs.argmax(1) == dev_labels).float().mean()
            watch.evaluate("dev", loss=loss(outputs, dev_labels), accuracy=right)
    if watch is not None:
        watch.__exit__(None, None, None)
    return watch


def sgd(model: nn.Module, rate: float = 0.05, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, **options)


def codes(watch: Any) -> set[str]:
    return {finding.code for finding in watch.findings() if finding.severity != "info"}


def test_a_healthy_loop_is_left_in_peace() -> None:
    model = net()
    watch = loop(model, sgd(model), batch=True)
    assert codes(watch) == set()
    assert watch is not None
    names = {record.name for record in watch.records}
    assert names <= QUANTITIES.keys()
    assert names >= {"batch_loss", "smoothed_loss", "update_ratio", "gradient_norm", "dead", "leftover_gradient"}
    assert {record.epoch for record in watch.records} == set(range(1, 7))


def test_training_is_the_same_byte_for_byte_and_nothing_stays_behind() -> None:
    def run(watched: bool) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = net(nn.Dropout(0.0))
        optimizer = sgd(model)
        loop(model, optimizer, 2, watched=watched, every=3)
        return model, optimizer

    (watched, optimizer), (plain, _) = run(True), run(False)
    for a, b in zip(watched.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    for module in watched.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert not optimizer._optimizer_step_pre_hooks
    assert all(not p._backward_hooks for p in watched.parameters())


def test_an_optimiser_of_caviars_is_watched_too_and_left_as_it_was() -> None:
    model = net()
    optimizer = build_optimizer(SGDSettings(learning_rate=0.05, momentum=0.9), model)
    watch = loop(model, optimizer)
    assert watch is not None
    assert {record.value for record in watch.records if record.name == "optimizer_stepped"} == {1.0}
    assert "step" not in optimizer.__dict__


def poisoned(step: int, inputs: Tensor) -> Tensor:
    return inputs.masked_fill(torch.arange(8) == 3, math.nan) if step == 50 else inputs


def fault(code: str) -> Any:
    model = net()
    if code == "GRAD006":
        return loop(model, torch.optim.SGD(model.parameters(), lr=0.02), zero=False)
    if code == "GRAD007":
        optimizer = sgd(model)
        model[4] = nn.Linear(32, 4)
        return loop(model, optimizer)
    if code == "NORM001":
        model = nn.Sequential(net()[0], nn.BatchNorm1d(32), nn.Dropout(0.2), nn.Linear(32, 4))
        return loop(model, sgd(model), 10, back_to_training=False)
    if code == "NUM003":
        model = net(nn.Softmax(1))
        return loop(model, sgd(model, 0.2), loss_name="cross_entropy")
    if code == "NUM005":
        return loop(model, sgd(model, 0.01), loss=nn.functional.nll_loss)
    if code == "NUM002":
        return loop(model, sgd(model), change=poisoned)
    if code == "LR003":
        return loop(model, sgd(model, 100.0))
    if code == "LR001":
        return loop(model, sgd(model, 1e-6))
    if code == "INIT002":
        for parameter in model.parameters():
            nn.init.constant_(parameter, 0.1)
        return loop(model, sgd(model))
    return loop(model, sgd(model, weight_decay=1.0))


@pytest.mark.parametrize(
    "code",
    ["GRAD006", "GRAD007", "NORM001", "NUM003", "NUM005", "NUM002", "LR003", "LR001", "INIT002", "REG001"],
)
def test_bugs_that_people_make_are_named(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = caviar.watch

    def named(*arguments: Any, **options: Any) -> Any:
        return original(*arguments, loss=options.pop("loss_name", ""), **options)

    monkeypatch.setattr(caviar, "watch", named)
    watch = fault(code)
    findings = [f for f in watch.findings() if f.severity != "info"]
    assert code in {finding.code for finding in findings}
    assert findings[0].code == code, [f.code for f in findings]


def test_the_step_of_a_bad_batch_is_named_although_nobody_looked() -> None:
    (finding,) = [f for f in fault("NUM002").findings() if f.code == "NUM002"]
    assert finding.step == 51


def test_targets_that_are_broadcast_are_seen_when_the_batch_is_told() -> None:
    model = nn.Sequential(nn.Linear(8, 1))
    optimizer = sgd(model, 0.01)
    with warnings.catch_warnings(), caviar.watch(model, optimizer, quiet=True) as watch:
        warnings.simplefilter("ignore")
        for _ in range(20):
            inputs, labels = data(20)
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(inputs), labels.float())
            loss.backward()
            optimizer.step()
            watch.step(loss, (inputs, labels.float()))
    assert "NUM007" in codes(watch)


def test_gradients_added_up_over_batches_on_purpose_are_no_fault() -> None:
    model = net()
    optimizer = sgd(model, 0.02)
    inputs, labels = data()
    with caviar.watch(model, optimizer, quiet=True) as watch:
        for step in range(400):
            rows = torch.arange(step % 20 * 20, step % 20 * 20 + 20)
            loss = CE(model(inputs[rows]), labels[rows])
            (loss / 4).backward()
            if step % 4 == 3:
                optimizer.step()
                optimizer.zero_grad()
            watch.step(loss)
    assert codes(watch) == set()


def test_findings_are_there_at_any_time_and_a_summary_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    model = net()
    optimizer = sgd(model, 100.0)
    inputs, labels = data()
    with caviar.watch(model, optimizer) as watch:
        assert watch.findings() == ()
        for _ in range(30):
            optimizer.zero_grad()
            loss = CE(model(inputs), labels)
            loss.backward()
            optimizer.step()
            watch.step(loss)
        assert watch.findings()[0].code == "LR003"
    out, err = capsys.readouterr()
    assert out == ""
    assert "caviar watched 30 steps" in err
    assert "error LR003" in err
    assert "caviar explain LR003" in err


def test_inputs_of_dev_are_compared_with_those_of_train() -> None:
    model = net()
    optimizer = sgd(model)
    inputs, labels = data(1200)
    with caviar.watch(model, optimizer, quiet=True) as watch:
        for rows in torch.arange(1200).split(20):
            optimizer.zero_grad()
            loss = CE(model(inputs[rows]), labels[rows])
            loss.backward()
            optimizer.step()
            watch.step(loss)
        with torch.no_grad():
            for part in (3 * inputs[:300] + 1).split(100):
                model(part)
        watch.evaluate("dev", loss=1.0, accuracy=0.5)
    assert "DATA004" in codes(watch)
    assert watch._live.story.facts.num_dev == 300


def test_wrong_arguments_are_told_in_words() -> None:
    model = net()
    with pytest.raises(InputError, match="optimizer is a list"):
        caviar.watch(model, list(model.parameters()))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="model is a str"):
        caviar.watch("model", sgd(model))  # type: ignore[arg-type]
    watch = caviar.watch(model, sgd(model), quiet=True)
    with pytest.raises(InputError, match="use it inside"):
        watch.step(1.0)
    with watch, pytest.raises(InputError, match="'dev'"):
        watch.evaluate("devv", loss=1.0)


def test_an_error_in_the_loop_goes_on_and_leaves_nothing_behind() -> None:
    model = net()
    with pytest.raises(ZeroDivisionError), caviar.watch(model, sgd(model), quiet=True) as watch:
        watch.step(2.3)
        raise ZeroDivisionError
    assert not model._forward_pre_hooks
    assert watch.findings() == ()


@pytest.mark.parametrize("how", ["list", "sum", "numbers", "one epoch"])
def test_losses_that_are_kept_with_their_graphs_are_seen(how: str) -> None:
    (inputs, labels), model, kept = data(), net(), []
    optimizer, total = sgd(model), torch.zeros(())
    with caviar.watch(model, optimizer, quiet=True) as watch:
        for _ in range(8):
            for rows in torch.arange(400).split(20):
                optimizer.zero_grad()
                loss = CE(model(inputs[rows]), labels[rows])
                loss.backward()
                optimizer.step()
                watch.step(loss)
                if how == "sum":
                    total = total + loss
                else:
                    kept.append(loss if how != "numbers" else loss.detach())
            if how == "one epoch":
                kept.clear()
            watch.evaluate("dev", loss=1.0)
    assert ("PERF005" in codes(watch)) == (how in ("list", "sum"))
    assert total.requires_grad == (how == "sum")
