"""A population as a user holds it: many models of one architecture that train together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from caviar.core.errors import InputError, unknown_name
from caviar.core.members import check_range
from caviar.core.seeds import MAX_SEED, derive_seed, generator_for, set_generator
from caviar.nn.settings import LossSettings
from caviar.optim.settings import OPTIMIZERS, OptimizerSettings
from caviar.population.cohort import NAMES, Cohort, Executor, OwnLoss, Step, Task
from caviar.population.executors import KINDS, Layout, Timing, build_executor, candidates, choose
from caviar.population.given import check_batch, check_rate, check_weights, numbers_of, seeds_of, whole_number
from caviar.population.modules import copy_template, make_member, stack_weights, tensors_of
from caviar.population.objective import is_own_loss
from caviar.population.singles import under
from caviar.population.views import Shared, member_of

Source = nn.Module | Callable[[], nn.Module]

RANGES: Mapping[str, dict[str, float]] = {
    "learning_rate": {"above": 0},
    "momentum": {"least": 0, "below": 1},
    "beta1": {"least": 0, "below": 1},
    "beta2": {"least": 0, "below": 1},
    "eps": {"above": 0},
    "weight_decay": {"least": 0},
    "l1": {"least": 0},
    "l2": {"least": 0},
    "max_norm": {"above": 0},
    "dropout": {"least": 0, "below": 1},
    "label_smoothing": {"least": 0, "below": 1},
    "clip_norm": {"above": 0},
    "init_gain": {"above": 0},
}
"""What each hyperparameter of a member may be."""


class Population:
    """Trains `members` models of one architecture on common batches, each with its own hyperparameters and seed.

        population = Population(net, members=8, hyperparameters={"learning_rate": torch.logspace(-4, -1, 8)})
        for inputs, targets in batches:
            population.step(inputs, targets)
        losses = population.losses()              # (steps, members)
        best = population.member(int(losses[-1].argmin()))

    Args:
        source: a module, whose weights every member begins with, or a function that makes one, called once for each
            member's seed. The module is never changed.
        members: how many; by default as many as the hyperparameters have values.
        hyperparameters: name -> [members] values: learning_rate, momentum, beta1, beta2, eps, weight_decay, l1, l2,
            max_norm, dropout (of every dropout layer), label_smoothing, clip_norm.
        optimizer, loss: a name, or a recipe's section as a dict or settings; what all members share. A loss may also be
            a function or module of your own, called as loss(outputs, targets) for one member: it returns one number.
        seed: of the population; member i draws weights and dropout by (seed, trial i), whoever stands beside.
        seeds: one seed for each member instead: member i is then what a single run of seed seeds[i] is.
        executor: "auto" times a few steps of each kind when training begins and takes the fastest; or "singles",
            "stacked" or "chain".

    Raises InputError: a name that is not known, values out of range or of another length, no trainable parameter, or a
    second-order rule.
    """

    def __init__(
        self,
        source: Source,
        members: int | None = None,
        *,
        hyperparameters: Mapping[str, Tensor | Sequence[float]] | None = None,
        optimizer: OptimizerSettings | Mapping[str, Any] | str = "sgd",
        loss: LossSettings | Mapping[str, Any] | str | OwnLoss = "cross_entropy",
        seed: int = 0,
        seeds: Sequence[int] | Tensor | None = None,
        executor: str = "auto",
    ) -> None:
        members = None if members is None else whole_number("members", members)
        own = None if seeds is None else seeds_of(seeds)
        values = check_values(hyperparameters or {}, members)
        if "init_gain" in values:
            raise InputError(
                "a module brings its own initial weights, so init_gain is not for a population made of one. Use "
                "caviar.train(..., members=...), or give a function that makes modules."
            )
        count = _count(members, values, own)
        if executor not in ("auto", *KINDS):
            raise unknown_name("executor", executor, ("auto", *KINDS))
        seed = whole_number("seed", seed)
        modules = make_modules(source, count, seed, own)
        settings = optimizer_settings(optimizer)
        self._setup(
            Cohort(
                template=copy_template(modules[0]),
                weights=stack_weights(modules),
                optimizer=settings,
                loss=loss if is_own_loss(loss) else loss_settings(loss),
                draws=tuple(member_draws(seed, trial, own) for trial in range(count)),
                values=values,
            ),
            tuple(range(count)),
            executor,
            seed,
        )

    def _setup(self, cohort: Cohort, trials: tuple[int, ...], kind: str, seed: int) -> None:
        self.cohort, self.trials, self.kind, self.seed = cohort, trials, kind, seed
        self.layout: Layout | None = None
        self.timings: list[Timing] = []
        self._executor: Executor | None = None
        self._remembered: dict[str, Tensor] = {}
        self._planned: Layout | None = None

    @classmethod
    def of(cls, cohort: Cohort, trials: Sequence[int], kind: str = "auto", seed: int = 0) -> "Population":
        """Return the population of a cohort that is there already; `trials` are the members' numbers."""
        population = cls.__new__(cls)
        population._setup(cohort, tuple(trials), kind, seed)
        return population

    def __len__(self) -> int:
        return len(self.cohort)

    def prepare(self, steps: Sequence[Step], layout: Layout | None = None) -> Layout:
        """Choose how to run, by timing `steps` on copies, unless `layout` says it; before the first step."""
        if self._executor is not None:
            assert self.layout is not None
            return self.layout
        layout = layout or self._planned
        if layout is None:
            layouts = candidates(len(self), steps[0].inputs.device)
            if self.kind != "auto":
                layouts = [found for found in layouts if found.kind == self.kind] or [Layout(self.kind, len(self))]
            if len(layouts) == 1:
                layout = layouts[0]
            else:
                layout, self.timings = choose(self.cohort, steps, layouts)
        executor = build_executor(self.cohort, layout, steps[0].inputs)
        if isinstance(executor, str):
            raise InputError(f"executor {layout.kind!r} cannot run these members: {executor}. Use executor='auto'.")
        self._executor, self.layout = executor, layout
        if self._remembered:
            executor.load(self._remembered)
        self._remembered, self.cohort = {}, self.cohort.without_numbers()  # the executor has them
        return layout

    def step(
        self,
        inputs: Shared,
        targets: Shared,
        weights: Tensor | None = None,
        *,
        learning_rate: float | Tensor | None = None,
        momentum: float | Tensor | None = None,
    ) -> None:
        """Train every member on one batch; nothing is waited for, so leave the tensors as they are until `losses`.

        inputs: (batch, ...). targets: (batch,). Either may be `Views`, where members see it in different ways.
        weights: (members, batch) of the examples, or None: the loss is sum(w * loss) / sum(w), batch norm weighs its
        statistics alike, and a member whose weights are all 0 rests.
        learning_rate, momentum: from this step on, a number or [members].
        """
        check_batch(inputs, targets)
        if weights is not None:
            check_weights(weights, len(self), len(inputs))
        check_rate("learning_rate", learning_rate, len(self))
        check_rate("momentum", momentum, len(self))
        self.take(Step(inputs, targets, weights, learning_rate, momentum))

    def take(self, step: Step) -> None:
        """Train every member on one step."""
        if step.weights is not None and tuple(step.weights.shape) != (len(self), len(step.inputs)):
            raise InputError(
                f"weights has shape {tuple(step.weights.shape)}; give one for each member and example: "
                f"({len(self)}, {len(step.inputs)})."
            )
        if self._executor is None:
            self.prepare([step])
        assert self._executor is not None
        self._executor.step(step)

    def visit(self, task: Task, example: Step) -> None:
        """Have `task` done where members are trained, after the steps so far and before the next; do not wait for it.

        It is called once for each thread, with an executor of consecutive members and the place of the first of them.
        example: a step of the usual batch size.
        """
        if self._executor is None:
            self.prepare([example])
        assert self._executor is not None
        self._executor.visit(task)

    def losses(self) -> Tensor:
        """Wait, and return the losses (steps since the last call, members), on the CPU."""
        return torch.zeros(0, len(self)) if self._executor is None else self._executor.losses()

    def outputs(self, inputs: Shared) -> Tensor:
        """Wait, and return every member's outputs (members, batch, ...) in evaluation mode."""
        if self._executor is None:
            modules = [self.member(number).eval() for number in range(len(self))]
            with torch.no_grad():
                return torch.stack([m(member_of(inputs, n)).float() for n, m in enumerate(modules)])
        return self._executor.outputs(inputs)

    def state(self) -> dict[str, Tensor]:
        """Wait, and return all that going on needs, by name, members in front of every tensor."""
        if self._executor is not None:
            return self._executor.state()
        if self._remembered:
            return dict(self._remembered)
        found = {f"model/{name}": tensor.clone() for name, tensor in self.cohort.weights.items()}
        if self.cohort.average:
            found |= {f"average/{name}": tensor.clone() for name, tensor in self.cohort.weights.items()}
        return {**found, "draws": torch.stack([generator.get_state() for generator in self.cohort.draws])}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state."""
        check_state(state, self.cohort)
        for generator, draws in zip(self.cohort.draws, state["draws"], strict=True):
            set_generator(generator, draws)
        if self._executor is not None:
            self._executor.load(state)
            return
        weights = under(state, "model/")
        self.cohort = replace(self.cohort, weights={n: weights[n].clone() for n in self.cohort.weights})
        self._remembered = dict(state)

    def member(self, number: int) -> nn.Module:
        """Return a plain module with the weights and buffers that a member has now; a copy."""
        number = whole_number("a member", number)
        self._check_member(number)
        return make_member(self.cohort.template, under(self.state(), "model/"), number)

    def select(self, members: Sequence[int]) -> "Population":
        """Return a population of some members as they are now, their optimisers' memory and draws included."""
        if not isinstance(members, Sequence | Tensor | range) or not len(members):
            raise InputError(f"members must be a list of at least one member's number, but {members!r} arrived.")
        members = [whole_number("a member", number) for number in members]
        for number in members:
            self._check_member(number)
        return self._taken(list(members), [self.trials[number] for number in members])

    def replicate(self, times: int) -> "Population":
        """Return a population with every member `times` times; the copies get new trial numbers, and so new draws."""
        if times < 1:
            raise InputError(f"times must be at least 1, but {times} arrived.")
        places = [number for number in range(len(self)) for _ in range(times)]
        return self._forked(places)

    def fork(self, member: int, times: int) -> "Population":
        """Return a population of `times` copies of one member, the first of which goes on exactly as it."""
        self._check_member(member)
        if times < 1:
            raise InputError(f"times must be at least 1, but {times} arrived.")
        return self._forked([member] * times)

    def _forked(self, places: list[int]) -> "Population":
        new = max(self.trials) + 1
        trials, seen = [], set()
        for place in places:
            trials.append(new if place in seen else self.trials[place])
            new += place in seen
            seen.add(place)
        return self._taken(places, trials)

    def _taken(self, places: list[int], trials: list[int]) -> "Population":
        index = torch.tensor(places, dtype=torch.int64)
        state = {name: tensor[index.to(tensor.device)] for name, tensor in self.state().items()}
        draws = []
        for number, (place, trial) in enumerate(zip(places, trials, strict=True)):
            generator = torch.Generator()
            set_generator(generator, state["draws"][number])
            if trial != self.trials[place]:
                generator.manual_seed(derive_seed(generator.initial_seed() & MAX_SEED, "fork", trial))
                state["draws"][number] = generator.get_state()
            draws.append(generator)
        cohort = replace(
            self.cohort,
            weights=under(state, "model/"),
            draws=tuple(draws),
            values={name: value[index] for name, value in self.cohort.values.items()},
        )
        kind = self.kind if self.layout is None else self.layout.kind
        population = Population.of(cohort, trials, kind, self.seed)
        if self.layout is not None:
            size = min(self.layout.size, len(places))
            threads = min(self.layout.threads, -(-len(places) // size))
            population._planned = Layout(self.layout.kind, size, threads)
        population._remembered = state
        return population

    def refill(
        self, member: int, source: Source | None = None, hyperparameters: Mapping[str, float] | None = None
    ) -> "Population":
        """Return this population with a new trial in a member's place; the others go on as they are.

        source: a module, whose weights it begins with, or a function that makes one for its seed; without one it
        begins as the first member did. It has a new trial number, draws of its own, and an optimiser that remembers
        nothing. hyperparameters: its own, of those in which members differ.
        """
        self._check_member(member)
        trial = max(self.trials) + 1
        (module,) = make_modules(source or self.cohort.template, 1, self.seed, [derive_seed(self.seed, "trial", trial)])
        population = self.select(range(len(self)))
        state, generator = population._remembered, member_draws(self.seed, trial)
        fresh = stack_weights([module])
        if {n: t.shape[1:] for n, t in fresh.items()} != {n: t.shape[1:] for n, t in self.cohort.weights.items()}:
            raise InputError("the new trial's module has another architecture than these members.")
        for name, tensor in state.items():
            tensor[member] = _first(name, fresh)
        state["draws"][member] = generator.get_state()
        values = dict(population.cohort.values)
        for name, value in check_values({n: [v] for n, v in (hyperparameters or {}).items()}, 1).items():
            if name not in values:
                raise InputError(
                    f"members do not differ in {name}, so one of them cannot get its own. Make the population with "
                    f"hyperparameters={{{name!r}: ...}}."
                )
            values[name] = values[name].clone()
            values[name][member] = value[0]
        trials = (*population.trials[:member], trial, *population.trials[member + 1 :])
        population.cohort = replace(population.cohort, values=values)
        population.trials = trials
        population.load(state)
        return population

    def change(self, hyperparameters: Mapping[str, Tensor | Sequence[float]]) -> "Population":
        """Return this population with other hyperparameters, everything else as it is now."""
        values = check_values(hyperparameters, len(self))
        population = self.select(range(len(self)))
        population.cohort = replace(population.cohort, values={**population.cohort.values, **values})
        return population

    def save(self, path: str | Path) -> None:
        """Write the state to one safetensors file, whole or not at all."""
        from caviar.population.files import write_population

        write_population(Path(path), self.state(), self.trials)

    def restore(self, path: str | Path) -> None:
        """Go on from a file of `save`, of a population made alike."""
        from caviar.population.files import read_population

        state, trials = read_population(Path(path))
        if len(trials) != len(self):
            raise InputError(f"{path} holds {len(trials)} members, but this population has {len(self)}.")
        self.trials = trials
        self.load(state)

    def close(self) -> None:
        """End threads. The state stays readable, and training may go on, which starts them again."""
        if self._executor is not None:
            state = self._executor.state()
            self._executor.close()
            self._executor = None
            self.load(state)

    def drop(self) -> None:
        """End threads and let go of memory, whatever has become of the members."""
        if self._executor is not None:
            self._executor.close()
            self._executor = None

    def _check_member(self, number: int) -> None:
        if not 0 <= number < len(self):
            raise InputError(f"there is no member {number}; this population has members 0 to {len(self) - 1}.")


def _first(name: str, weights: Mapping[str, Tensor]) -> Tensor | float:
    """Return what a state's tensor begins with in a member of these weights (1, ...)."""
    room, _, key = name.partition("/")
    if room in ("model", "average"):
        return weights[key][0]
    owner, _, slot = key.rpartition("/")
    if slot == "slow":  # Lookahead's slow weights begin as the weights
        return weights[owner][0]
    return 1.0 if slot == "mu_product" else 0.0  # NAdam's product of nothing


def check_values(given: Mapping[str, Tensor | Sequence[float]], members: int | None) -> dict[str, Tensor]:
    """Return hyperparameters of members as float64 tensors [members], checked."""
    if not isinstance(given, Mapping):
        raise InputError(f"hyperparameters must be a dict of name -> values, but {given!r} arrived.")
    values: dict[str, Tensor] = {}
    for name, numbers in given.items():
        if name not in NAMES:
            raise unknown_name("hyperparameter of members", name, NAMES)
        value = numbers_of(f"hyperparameters[{name!r}]", numbers)
        count = members if members is not None else next((len(other) for other in values.values()), None)
        if value.dim() != 1 or not len(value) or (count is not None and len(value) != count):
            raise InputError(
                f"hyperparameters[{name!r}] has shape {tuple(value.shape)}; give one number for each member"
                f"{'' if count is None else f', {count} in all'}."
            )
        check_range(name, value, **RANGES[name])
        values[name] = value
    return values


def _count(members: int | None, values: Mapping[str, Tensor], seeds: Sequence[int] | None) -> int:
    lengths = [len(value) for value in values.values()] + ([] if seeds is None else [len(seeds)])
    count = members if members is not None else (lengths[0] if lengths else 1)
    if count < 1:
        raise InputError(f"members is {count}; a population has at least one.")
    if seeds is not None and len(seeds) != count:
        raise InputError(f"seeds has {len(seeds)} entries for {count} members; give one for each.")
    return count


def make_modules(source: Source, count: int, seed: int, seeds: Sequence[int] | None) -> list[nn.Module]:
    """Return the members' first modules: the module itself, as often, or what the factory makes for each seed."""
    if isinstance(source, nn.Module):
        _check_shapes_known(source)
        return [source] * count
    modules = [make_module(source, seed, trial, seeds) for trial in range(count)]
    if len({id(module) for module in modules}) < count:
        raise InputError(
            "the function made the same module twice, so that members would share weights. Make a new one at each "
            "call, or give the module itself to begin all members with its weights."
        )
    shapes = [{name: tuple(tensor.shape) for name, tensor in tensors_of(module).items()} for module in modules]
    odd = next((trial for trial, shape in enumerate(shapes) if shape != shapes[0]), None)
    if odd is not None:
        raise InputError(
            f"the function made another architecture for member {odd} than for member 0. Members of one population "
            "have one architecture; make a population for each."
        )
    return modules


def make_module(source: Source, seed: int, trial: int, seeds: Sequence[int] | None = None) -> nn.Module:
    """Return a member's first module: the one that is given, or what the function makes for the member's seed."""
    if isinstance(source, nn.Module):
        return source
    if not callable(source):
        raise InputError(f"a population is made of a torch.nn.Module or a function that makes one, not of {source!r}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_derived(seed, trial, seeds, "weights"))
        made = source()
    if not isinstance(made, nn.Module):
        raise InputError(f"the function made a {type(made).__name__}; it must make a torch.nn.Module.")
    _check_shapes_known(made)
    return made


def _check_shapes_known(module: nn.Module) -> None:
    lazy = next((name for name, part in module.named_modules() if _is_lazy(part)), None)
    if lazy is not None:
        kind = type(module.get_submodule(lazy)).__name__
        raise InputError(
            f"the layer {lazy!r} ({kind}) has weights without a shape: it has not seen an example yet. Call the module "
            "on a batch first; a function that makes modules does so before it returns one."
        )


def _is_lazy(module: nn.Module) -> bool:
    """Whether a layer's own parameters or buffers wait for a first batch to get their shapes."""
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return any(isinstance(tensor, UninitializedParameter | UninitializedBuffer) for tensor in own)


def member_draws(seed: int, trial: int, seeds: Sequence[int] | None = None) -> torch.Generator:
    """Return the generator of all that is drawn for a member while it trains."""
    return torch.Generator().manual_seed(_derived(seed, trial, seeds, "draws"))


def member_weights(seed: int, trial: int, seeds: Sequence[int] | None = None) -> torch.Generator:
    """Return the generator of a member's initial weights."""
    return generator_for(seed if seeds is None else seeds[trial], "trial", trial if seeds is None else 0, "weights")


def _derived(seed: int, trial: int, seeds: Sequence[int] | None, stream: str) -> int:
    if seeds is not None:
        return derive_seed(seeds[trial], "trial", 0, stream)
    return derive_seed(seed, "trial", trial, stream)


def optimizer_settings(given: OptimizerSettings | Mapping[str, Any] | str) -> OptimizerSettings:
    """Return a recipe's section [optimizer]; a learning rate of "auto" becomes 0.01 (sgd) or 0.001."""
    section = {"name": given} if isinstance(given, str) else given
    if isinstance(section, Mapping) and section.get("name", "adamw") not in OPTIMIZERS:
        raise unknown_name("optimizer", str(section.get("name")), OPTIMIZERS)
    settings: Any = _validated(OptimizerSettings, section, "optimizer")
    if settings.learning_rate == "auto":
        settings = settings.model_copy(update={"learning_rate": 0.01 if settings.name == "sgd" else 0.001})
    return settings  # type: ignore[no-any-return]


def loss_settings(given: Any) -> LossSettings:
    """Return a recipe's section [loss]; "auto" is refused, as there is no target to look at."""
    section = {"name": given} if isinstance(given, str) else given
    settings: Any = _validated(LossSettings, section, "loss")
    if settings.name == "auto":
        raise InputError("loss='auto' needs a recipe's data; name one, such as cross_entropy or mean_squared_error.")
    return settings  # type: ignore[no-any-return]


def _validated(kind: Any, section: Any, what: str) -> Any:
    try:
        return TypeAdapter(kind).validate_python(section)
    except ValidationError as error:
        detail = error.errors()[0]
        place = ".".join(str(word) for word in detail["loc"])
        raise InputError(f"{what}: {place or 'name'}: {detail['msg']} (got {detail.get('input')!r}).") from error


def check_state(state: Mapping[str, Tensor], cohort: Cohort) -> None:
    """Refuse a state that is not one of such members."""
    weights = under(state, "model/")
    for name, tensor in cohort.weights.items():
        if name not in weights or weights[name].shape != tensor.shape:
            found = "absent" if name not in weights else f"of shape {tuple(weights[name].shape)}"
            raise InputError(f"the state is not one of these members: {name} is {found}, not {tuple(tensor.shape)}.")
    if "draws" not in state or len(state["draws"]) != len(cohort):
        raise InputError("the state lacks the generators of these members.")


__all__ = ["Population", "Source", "check_values", "loss_settings", "make_modules", "optimizer_settings"]
