"""What people use today to train many models, as benchmarks/population.py measures it: nothing here imports caviar.

A peer is a context manager around a Task that yields a function which trains `trials` models for `task.epochs` epochs
each, from fresh weights, without evaluating; only that function is timed. What a library compiles once for a net is
compiled before.
"""

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from plain_loops import LEARNING_RATE, MOMENTUM, data_loader, hand_written, lightning, skorch
from population_works import Task, Work, load_task
from torch import nn


class Peer(NamedTuple):
    """A peer. package: that must be installed; trials: of one turn; pictures: whether it trains convolutional nets."""

    make: Callable[[Task], AbstractContextManager[Callable[[], object]]]
    package: str = "torch"
    trials: int = 1
    pictures: bool = True
    environment: Mapping[str, str] = {}


def available(name: str, work: Work) -> str:
    """Return "" when a peer can do a work here, else why not."""
    peer = PEERS[name]
    if any(find_spec(package) is None for package in peer.package.split()):
        return "not installed"
    return "" if peer.pictures or not work.channels else "has no convolutions"


def trial(task: Task, learning_rate: float) -> float:
    """Train one model by the hand-written loop, and return the mean loss of its last epoch."""
    with hand_written(task, learning_rate) as train:
        return train()


def hand_bf16(task: Task) -> AbstractContextManager[Callable[[], object]]:
    """The hand-written loop with the net under autocast in bfloat16."""

    def net() -> nn.Module:
        made = task.net()
        cast = torch.autocast(task.inputs.device.type, dtype=torch.bfloat16)(made.forward)
        made.forward = lambda inputs: cast(inputs).float()
        return made

    return hand_written(replace(task, net=net))


@contextmanager
def optuna(task: Task) -> Iterator[Callable[[], object]]:
    """A study in memory whose trials run the hand-written loop on all cores."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()

    def objective(suggest: "optuna.Trial") -> float:
        return trial(task, suggest.suggest_float("learning_rate", LEARNING_RATE / 2, LEARNING_RATE * 2, log=True))

    yield lambda: study.optimize(objective, n_trials=PEERS["Optuna"].trials)


def trial_of_arrays(work: Work, inputs: Any, labels: Any, learning_rate: float) -> float:
    """Train one model on arrays that another process has sent or mapped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # joblib's arrays are read-only, which torch warns of
        x, y = torch.from_numpy(inputs), torch.from_numpy(labels)
    return trial(Task(work, work.net, x, y, x[:0], y[:0], work.epochs, work.batch_size), learning_rate)


@contextmanager
def joblib(task: Task) -> Iterator[Callable[[], object]]:
    """Two processes that joblib keeps, each with half of the cores' threads and the hand-written loop."""
    from sklearn.utils.parallel import Parallel, delayed

    inputs, labels = task.inputs.numpy(), task.labels.numpy()
    parallel = Parallel(n_jobs=2)
    parallel(delayed(trial_of_arrays)(task.work, inputs[:1], labels[:1], 0.0) for _ in range(2))  # starts them
    rates = [LEARNING_RATE] * PEERS["joblib"].trials
    yield lambda: parallel(delayed(trial_of_arrays)(task.work, inputs, labels, rate) for rate in rates)


@contextmanager
def scikit_learn(task: Task) -> Iterator[Callable[[], object]]:
    """MLPClassifier with the same momentum, batches and epochs, and no penalty."""
    from sklearn.neural_network import MLPClassifier

    net = MLPClassifier(
        task.work.widths[1:-1],
        solver="sgd",
        alpha=0.0,
        batch_size=task.batch_size,
        learning_rate_init=LEARNING_RATE,
        momentum=MOMENTUM,
        nesterovs_momentum=False,
        max_iter=task.epochs,
        n_iter_no_change=task.epochs + 1,
    )
    inputs, labels = task.inputs.numpy(), task.labels.numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it expects to converge
        yield lambda: net.fit(inputs, labels)


@contextmanager
def keras(task: Task) -> Iterator[Callable[[], object]]:
    """Model.fit, compiled before; pictures with the channels last, which is Keras's own layout."""
    import keras

    layers: list[Any] = []
    for channels in task.work.channels:
        layers += [
            keras.layers.Conv2D(channels, 3, padding="same", use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.MaxPooling2D(2),
        ]
    layers += [keras.layers.Flatten()] if task.work.channels else []
    layers += [keras.layers.Dense(width, activation="relu") for width in task.work.widths[1:-1]]
    inputs = task.inputs.movedim(1, -1).contiguous() if task.work.channels else task.inputs
    model = keras.Sequential([keras.Input(inputs.shape[1:]), *layers, keras.layers.Dense(10)])
    optimizer = keras.optimizers.SGD(LEARNING_RATE, momentum=MOMENTUM)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    arrays = {"x": inputs.numpy(), "y": task.labels.numpy()}
    few = {name: array[: 2 * task.batch_size] for name, array in arrays.items()}
    model.fit(**few, batch_size=task.batch_size, verbose=0)
    yield lambda: model.fit(**arrays, batch_size=task.batch_size, epochs=task.epochs, shuffle=True, verbose=0)


@contextmanager
def ray_tune(task: Task) -> Iterator[Callable[[], object]]:
    """Ray Tune over the hand-written loop, one core for each trial; the cluster runs before and ends after."""
    import ray
    from ray import tune

    work, path = task.work, os.environ["POPULATION_DATA"]
    search = {"learning_rate": tune.loguniform(LEARNING_RATE / 2, LEARNING_RATE * 2)}

    def objective(config: dict[str, float]) -> dict[str, float]:
        return {"loss": trial(load_task(work, Path(path)), config["learning_rate"])}

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        environment = {"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}}
        ray.init(
            num_cpus=torch.get_num_threads(),
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=128 << 20,
            runtime_env=environment,
        )
        try:
            tuner = tune.Tuner(
                objective,
                param_space=search,
                tune_config=tune.TuneConfig(num_samples=PEERS["Ray Tune"].trials, reuse_actors=True),
                run_config=tune.RunConfig(storage_path=folder, verbose=0),
            )
            yield lambda: _without_errors(tuner.fit())
        finally:
            ray.shutdown()


def _without_errors(results: Any) -> None:
    if results.errors:
        raise RuntimeError(str(results.errors[0]))


PEERS: dict[str, Peer] = {
    "hand-written": Peer(hand_written),
    "hand-written, bf16": Peer(hand_bf16),
    "DataLoader": Peer(data_loader),
    "Optuna": Peer(optuna, "optuna", 2),
    "joblib": Peer(joblib, "joblib sklearn", 4),
    "Lightning": Peer(lightning, "lightning"),
    "skorch": Peer(skorch, "skorch"),
    "scikit-learn": Peer(scikit_learn, "sklearn", pictures=False),
    "Keras (torch)": Peer(keras, "keras", environment={"KERAS_BACKEND": "torch"}),
    "Keras (JAX)": Peer(keras, "keras jax", environment={"KERAS_BACKEND": "jax"}),
    "Ray Tune": Peer(
        ray_tune, "ray pandas pyarrow", 4, environment={"RAY_USAGE_STATS_ENABLED": "0", "RAY_TRAIN_V2_ENABLED": "0"}
    ),
}
"""All peers by the names that the tables have; the first is what the targets are about."""
