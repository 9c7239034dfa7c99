"""Training loops as people write them, over tensors in memory: the contenders that benchmarks measure caviar against.

Every contender is a context manager around a Training: it sets up a fresh copy of the net and yields a function that
trains it for `epochs` epochs and evaluates the dev split, where there is one, after each of them. Only that function
is timed. Nothing here imports caviar.
"""

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

LEARNING_RATE = 0.01
MOMENTUM = 0.9
DEV_BATCH = 1000

Batches = DataLoader[tuple[Tensor, ...]]


class Training(Protocol):
    """A net and what it is trained on; dev_inputs and dev_labels may have no rows."""

    inputs: Tensor
    labels: Tensor
    dev_inputs: Tensor
    dev_labels: Tensor
    epochs: int
    batch_size: int

    def fresh(self) -> nn.Module:
        """Return the net as it is before training."""


Contender = Callable[[Any], AbstractContextManager[Callable[[], object]]]
"""From a Training to the function that trains."""


@contextmanager
def hand_written(work: Training, learning_rate: float = LEARNING_RATE) -> Iterator[Callable[[], float]]:
    """The loop that a good engineer writes over tensors in memory; it returns the mean loss of the last epoch."""
    net, inputs, labels = work.fresh(), work.inputs, work.labels
    optimizer = torch.optim.SGD(net.parameters(), lr=learning_rate, momentum=MOMENTUM)

    def train() -> float:
        total = 0.0
        for _ in range(work.epochs):
            net.train()
            order = torch.randperm(len(inputs))
            total = 0.0
            for start in range(0, len(inputs), work.batch_size):
                rows = order[start : start + work.batch_size]
                optimizer.zero_grad()
                loss = functional.cross_entropy(net(inputs[rows]), labels[rows])
                loss.backward()
                optimizer.step()
                total += loss.item() * len(rows)
            if len(work.dev_labels):
                _evaluate(net, zip(work.dev_inputs.split(DEV_BATCH), work.dev_labels.split(DEV_BATCH), strict=True))
        return total / len(inputs)

    yield train


@contextmanager
def data_loader(work: Training) -> Iterator[Callable[[], object]]:
    """The usual tutorial loop: TensorDataset and DataLoader."""
    net = work.fresh()
    optimizer = torch.optim.SGD(net.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    train_batches, dev_batches = _loaders(work)

    def train() -> None:
        for _ in range(work.epochs):
            net.train()
            total = 0.0
            for inputs, labels in train_batches:
                optimizer.zero_grad()
                loss = functional.cross_entropy(net(inputs), labels)
                loss.backward()
                optimizer.step()
                total += loss.item() * len(inputs)
            if dev_batches is not None:
                _evaluate(net, dev_batches)

    yield train


@contextmanager
def lightning(work: Training) -> Iterator[Callable[[], object]]:
    """Lightning's Trainer without logger, progress bar, summary and checkpoints."""
    from lightning import LightningModule, Trainer

    class Module(LightningModule):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def training_step(self, batch: list[Tensor], batch_index: int) -> Tensor:  # noqa: ARG002
            return functional.cross_entropy(self.net(batch[0]), batch[1])

        def validation_step(self, batch: list[Tensor], batch_index: int) -> None:  # noqa: ARG002
            logits = self.net(batch[0])
            self.log("loss", functional.cross_entropy(logits, batch[1]), batch_size=len(logits))
            self.log("accuracy", (logits.argmax(1) == batch[1]).float().mean(), batch_size=len(logits))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=work.epochs,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            num_sanity_val_steps=0,
        )
        module, loaders = Module(work.fresh()), _loaders(work)
        yield lambda: trainer.fit(module, *loaders)


@contextmanager
def skorch(work: Training) -> Iterator[Callable[[], object]]:
    """Skorch's NeuralNetClassifier, silent, with the dev split as its own."""
    from skorch import NeuralNetClassifier
    from skorch.helper import predefined_split

    dev = TensorDataset(work.dev_inputs, work.dev_labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = NeuralNetClassifier(
            work.fresh(),
            criterion=nn.CrossEntropyLoss,
            optimizer=torch.optim.SGD,
            optimizer__momentum=MOMENTUM,
            lr=LEARNING_RATE,
            max_epochs=work.epochs,
            batch_size=work.batch_size,
            iterator_train__shuffle=True,
            iterator_valid__batch_size=DEV_BATCH,
            train_split=predefined_split(dev) if len(dev) else None,
            classes=list(range(10)),
            verbose=0,
        )
        yield lambda: net.fit(work.inputs, work.labels)


def _loaders(work: Training) -> tuple[Batches, Batches | None]:
    train = DataLoader(TensorDataset(work.inputs, work.labels), batch_size=work.batch_size, shuffle=True)
    if not len(work.dev_labels):
        return train, None
    return train, DataLoader(TensorDataset(work.dev_inputs, work.dev_labels), batch_size=DEV_BATCH)


@torch.no_grad()
def _evaluate(net: nn.Module, batches: Iterable[Sequence[Tensor]]) -> tuple[float, float]:
    net.eval()
    loss, hits, rows = 0.0, 0, 0
    for inputs, labels in batches:
        logits = net(inputs)
        loss += functional.cross_entropy(logits, labels, reduction="sum").item()
        hits += (logits.argmax(1) == labels).sum().item()
        rows += len(labels)
    return loss / rows, hits / rows
