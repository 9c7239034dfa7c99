"""What a recipe says about training many models at once: the section [population]."""

from typing import Annotated, Any, Literal

from pydantic import Field

from caviar.core.errors import InputError
from caviar.core.settings import Auto, NoneWord, Settings

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Kind = Literal["singles", "stacked", "chain"]
Count = Annotated[int, Field(ge=1)]
Threads = Annotated[int, Field(ge=1, le=1024)]


class PopulationSettings(Settings):
    """How many models train together, in what they differ, and how they are run."""

    members: Annotated[int, Field(ge=1, le=100_000)] = 1
    """models that train together, each with weights and dropout of its own"""
    folds: NoneWord | Annotated[int, Field(ge=2, le=1000)] = "none"
    """cross-validation: every member is trained once without each fold, which judges it, and once on all folds"""
    vary: dict[str, Any] = Field(default_factory=dict)
    """any other settings in which members differ: { "training.batch_size" = [32, 64] }, one for each member"""
    executor: Auto | Kind | tuple[Kind, ...] = "auto"
    """singles (one module each), stacked (one stack of tensors), chain (a stack without autograd); auto: the fastest"""
    size: Auto | Count | tuple[Count, ...] = "auto"
    """members that an executor holds at a time; auto: chosen by timing"""
    threads: Auto | Threads | tuple[Threads, ...] = "auto"
    """executors that run at once, each on one CPU thread; auto: chosen by timing"""
    learning_rate: NoneWord | tuple[Positive, ...] = "none"
    """one for each member, in place of optimizer.learning_rate"""
    momentum: NoneWord | tuple[BelowOne, ...] = "none"
    """one for each member, in place of optimizer.momentum"""
    beta1: NoneWord | tuple[BelowOne, ...] = "none"
    """one for each member, in place of the first of optimizer.betas"""
    beta2: NoneWord | tuple[BelowOne, ...] = "none"
    """one for each member, in place of the second of optimizer.betas"""
    eps: NoneWord | tuple[Positive, ...] = "none"
    """one for each member, in place of optimizer.eps"""
    weight_decay: NoneWord | tuple[NotNegative, ...] = "none"
    """one for each member, in place of optimizer.weight_decay"""
    l1: NoneWord | tuple[NotNegative, ...] = "none"
    """one for each member, in place of regularization.l1"""
    l2: NoneWord | tuple[NotNegative, ...] = "none"
    """one for each member, in place of regularization.l2"""
    max_norm: NoneWord | tuple[Positive, ...] = "none"
    """one for each member, in place of regularization.max_norm"""
    dropout: NoneWord | tuple[BelowOne, ...] = "none"
    """one for each member, for every dropout layer of the network"""
    label_smoothing: NoneWord | tuple[BelowOne, ...] = "none"
    """one for each member, in place of loss.label_smoothing"""
    clip_norm: NoneWord | tuple[Positive, ...] = "none"
    """one for each member, in place of training.clip_norm"""
    init_gain: NoneWord | tuple[Positive, ...] = "none"
    """one for each member, in place of model.init_gain"""

    def lists(self) -> dict[str, tuple[float, ...]]:
        """Return the hyperparameters in which members differ, by name."""
        found = {name: getattr(self, name) for name in HYPERPARAMETERS}
        return {name: value for name, value in found.items() if value != "none"}

    def check(self) -> None:
        """Refuse lists of another length than there are members."""
        for name, values in self.lists().items():
            if len(values) != self.members:
                raise InputError(
                    f"population.{name} has {len(values)} entries for {self.members} members. Give one for each "
                    f"(or population.members = {len(values)})."
                )

    @property
    def views(self) -> int:
        """How often every member is trained: once, or with k folds once without each of them and once on all."""
        return self.folds + 1 if isinstance(self.folds, int) else 1

    @property
    def trials(self) -> int:
        """How many models train in all; member m without fold f is trial m * views + f, and on all folds the last."""
        return self.members * self.views

    def trials_of(self, members: tuple[int, ...] | range) -> tuple[int, ...]:
        """Return the numbers of the models that some members are trained as."""
        return tuple(member * self.views + view for member in members for view in range(self.views))

    def trial_lists(self) -> dict[str, tuple[float, ...]]:
        """Return the hyperparameters in which members differ, by name, with one entry for each trial."""
        return {name: tuple(v for v in values for _ in range(self.views)) for name, values in self.lists().items()}

    @property
    def is_one(self) -> bool:
        """Whether this is the training of a single model, without anything of its own."""
        return self.trials == 1 and not self.lists() and not self.vary


HYPERPARAMETERS = tuple(
    name
    for name in PopulationSettings.model_fields
    if name not in ("members", "folds", "vary", "executor", "size", "threads")
)
