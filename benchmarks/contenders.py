"""What benchmarks/loop.py compares: caviar's loop as in a real run, beside the plain ones.

The same net, data, batches, optimiser and evaluation in each; a contender is what plain_loops.py says.
"""

import copy
import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from plain_loops import Contender, data_loader, hand_written, lightning, skorch
from rich.console import Console
from torch import Tensor, nn

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


def installed() -> dict[str, Contender]:
    """Return the contenders that can run here, caviar first; names as they stand in the table."""
    optional = {"Lightning": ("lightning", lightning), "skorch": ("skorch", skorch)}
    found = {name: contender for name, (package, contender) in optional.items() if find_spec(package)}
    return {"caviar": caviar, "hand-written": hand_written, "DataLoader": data_loader, **found}
