"""The training loops that benchmarks/loop.py compares: the same net, data, batches, optimiser and evaluation in each.

Every contender is a context manager around a Work: it sets up a fresh copy of the net and yields a function that trains
it for `work.epochs` epochs and evaluates the dev split after each of them. Only that function is timed.
"""

import copy
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from caviar.core.runs import create_run
from caviar.core.seeds import derive_seed
from caviar.core.store import Store
from caviar.diagnose.settings import WatchSettings
from caviar.train.checkpoints import Checkpoints
from caviar.train.loop import StopRequest, isolated_randomness
from caviar.train.loop import train as run_loop
from caviar.train.state import State
from caviar.workflow.execute import build_job
from caviar.workflow.observers import ProgressBar, Recorder, RunLog
from caviar.workflow.plan import Plan
from caviar.workflow.watching import watch as watching

Quantities = Literal["default", "full", "none"]
Findings = Literal["live", "end", "none"]
Contender = Callable[["Work"], AbstractContextManager[Callable[[], object]]]

LEARNING_RATE = 0.01
MOMENTUM = 0.9
DEV_BATCH = 1000


@dataclass(frozen=True)
class Work:
    """One comparison: caviar's plan, and the same net and data as plain torch would have them.

    net: makes the hand-written net; it gets the plan's initial weights.
    inputs, labels, dev_inputs, dev_labels: float32 standardised tensors in the default memory format.
    """

    name: str
    title: str
    target: float
    plan: Plan
    net: Callable[[], nn.Module]
    inputs: Tensor
    labels: Tensor
    dev_inputs: Tensor
    dev_labels: Tensor
    epochs: int
    batch_size: int

    def fresh(self) -> nn.Module:
        """Return the hand-written net with the plan's initial weights."""
        net = self.net()
        weights = self.plan.model.state_dict().values()
        net.load_state_dict(dict(zip(net.state_dict(), weights, strict=True)))
        return net


@contextmanager
def caviar(work: Work, watched: Quantities = "none", findings: Findings = "none") -> Iterator[Callable[[], object]]:
    """Caviar as in a real run: record store, checkpoints, run.json, and a progress bar on a (pretended) terminal.

    watched, findings: what of the network is measured, and when rules read it, as in a recipe's section [watch].
    """
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    settings = WatchSettings(quantities=watched, findings=findings)
    recipe = work.plan.recipe.model_copy(update={"watch": settings})
    plan = replace(work.plan, recipe=recipe, model=copy.deepcopy(work.plan.model))
    randomness = isolated_randomness(derive_seed(plan.recipe.seed, "trial", 0, "draws"), plan.device)
    with tempfile.TemporaryDirectory() as folder, create_run(Path(folder), None, "run", {}, {}) as owned:
        run = owned.folder
        with Store(run.store) as store, randomness:
            job, state, checkpoints = build_job(plan), State(), Checkpoints(run.checkpoints)
            watch = watching(plan, job, run, store, 0, console)
            recorder = Recorder(store, run, RunLog(run.log), watcher=watch.watcher, findings=watch.live)
            with ProgressBar(job.epochs, len(job.train), job.batch_size, 0, console) as bar, closing(watch):

                def train() -> None:
                    run_loop(job, state, checkpoints, [*watch.observers, recorder, bar], StopRequest())
                    recorder.on_save(state.step)

                yield train


@contextmanager
def hand_written(work: Work) -> Iterator[Callable[[], object]]:
    """The loop that a good engineer writes over tensors in memory."""
    net, inputs, labels = work.fresh(), work.inputs, work.labels
    optimizer = torch.optim.SGD(net.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)

    def train() -> None:
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
            _evaluate(net, zip(work.dev_inputs.split(DEV_BATCH), work.dev_labels.split(DEV_BATCH), strict=True))

    yield train


@contextmanager
def data_loader(work: Work) -> Iterator[Callable[[], object]]:
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
            _evaluate(net, dev_batches)

    yield train


@contextmanager
def lightning(work: Work) -> Iterator[Callable[[], object]]:
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
def skorch(work: Work) -> Iterator[Callable[[], object]]:
    """Skorch's NeuralNetClassifier, silent, with the dev split as its own."""
    from skorch import NeuralNetClassifier
    from skorch.helper import predefined_split

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
            train_split=predefined_split(TensorDataset(work.dev_inputs, work.dev_labels)),
            classes=list(range(10)),
            verbose=0,
        )
        yield lambda: net.fit(work.inputs, work.labels)


def installed() -> dict[str, Contender]:
    """Return the contenders that can run here, caviar first; names as they stand in the table."""
    optional = {"Lightning": ("lightning", lightning), "skorch": ("skorch", skorch)}
    found = {name: contender for name, (package, contender) in optional.items() if find_spec(package)}
    return {"caviar": caviar, "hand-written": hand_written, "DataLoader": data_loader, **found}


def _loaders(work: Work) -> tuple[DataLoader[tuple[Tensor, ...]], DataLoader[tuple[Tensor, ...]]]:
    train = DataLoader(TensorDataset(work.inputs, work.labels), batch_size=work.batch_size, shuffle=True)
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
