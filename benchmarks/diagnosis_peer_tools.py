"""The other tools of benchmarks/diagnosis_peers.py: how each is used, and which codes its findings could stand for.

Each is used as its own documentation shows, with its defaults. A finding stands for every code that its words could
mean: where a tool says "the loss does not fall on one batch", that is FIT101, but LR001 and NUM003 as well. () is for
findings that stand for none of the suite's faults (tensor cores, weight decay of biases).
"""

import contextlib
import importlib.util
import io
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from diagnosis_works import Work, build_optimizer, train
from torch import Tensor

FIRST_BATCH = 64
AUDIT_EVERY = 20
"""Steps between two audits of torch-audit, whose default (1,000) is more than most set-ups have."""


class Said(NamedTuple):
    """What a tool said, in a few words, and the codes that it could stand for."""

    words: str
    codes: tuple[str, ...]


def _codes(text: str) -> tuple[str, ...]:
    return tuple(text.split())


TORCHTEST2 = {
    "output_finite": "NUM001 NUM002",
    "output_varies": "INIT002 INIT004 INIT005 GRAD012",
    "eval_determinism": "NORM102",
    "loss": "NUM001 NUM002 NUM101 NUM005",
    "optimizer_coverage": "GRAD007",
    "gradient_flow": "GRAD003 GRAD004 GRAD001 INIT002 INIT004 INIT005",
    "gradient_magnitude": "GRAD002 DATA002 DATA012 INIT001 INIT007 NUM001",
    "params_change": "GRAD003 GRAD004 GRAD007 GRAD011",
    "frozen_params": "GRAD008",
    "input_dependency": "INIT002 GRAD003 GRAD012",
    "batch_independence": "NORM101 NUM004 NUM007 NORM001",
    "overfit_batch": "FIT101 FIT002 LR001 LR002 LR003 NUM003 NUM101 NUM007 GRAD011",
    "gradcheck": "GRAD101",
    "high": "INIT001 INIT007 DATA002",
    "low": "DATA104",
}
TORCH_AUDIT = {
    "TA100": "NUM001 NUM002 LR003",
    "TA102": "GRAD002 GRAD006 GRAD010 LR002 LR003 LR004 DATA002 DATA012",
    "TA103": "GRAD003 GRAD004 GRAD013 INIT002 INIT005",
    "TA104": "GRAD003 GRAD008",
    "TA105": "GRAD004 INIT005",
    "TA301": "DATA002 DATA010",
    "TA302": "DATA009",
    "TA304": "NORM003 PERF002",
    "TA305": "NUM002",
    "TA400": "NORM103",
    "TA405": "INIT002 INIT007 REG001",
    "TA500": "GRAD003",
}
TORCHMORTEM = {
    "Vanishing gradients": "GRAD001 INIT004",
    "Exploding gradients": "GRAD002 GRAD006 GRAD010 LR003 DATA002 DATA012",
    "Gradient stalling": "GRAD001 GRAD003 GRAD008 GRAD011 GRAD013",
    "High gradient noise": "PERF002",
    "Training divergence": "LR002 LR003 LR004 LR010 GRAD006",
    "Loss plateau": "LR001 LR008 LR009 GRAD011 INIT002 FIT002",
    "Dead units": "GRAD004 INIT005",
    "Activation saturation": "GRAD005 INIT006",
    "Update ratio too low": "LR001 LR007 LR009 GRAD007 GRAD011",
    "Update ratio too high": "LR002 LR003 LR004 LR005 LR006 LR010",
    "Weight norm explosion": "REG004 LR002 LR003",
    "Stagnant weight norms": "LR001 LR009 GRAD007 GRAD008 GRAD011",
    "Inter-layer weight norm imbalance": "INIT007",
    "Rank collapse": "INIT002 GRAD012 REG001",
}
OBSERVATORY = {
    "nan": "NUM001 NUM002 LR003",
    "inf": "NUM001 NUM002 LR003",
    "vanish": "GRAD001 INIT004 GRAD013",
    "explo": "GRAD002 GRAD006 GRAD010 LR002 LR003 LR004 DATA002 DATA012",
    "dead": "GRAD004 INIT005",
    "inactive": "GRAD004 INIT005",
    "drift": "LR002 LR003 LR004 LR010",
    "step-to-step": "LR002 LR003 LR004 LR006",
    "near zero": "REG001 INIT002 INIT004",
    "satur": "GRAD005 INIT006",
    "collaps": "GRAD012 GRAD013 INIT002 REG001",
    "variance": "INIT004 INIT002 GRAD012",
    "spike": "LR011 DATA011",
}


def torchtest2(work: Work) -> list[Said]:
    """One call on one batch before training."""
    import torchtest2

    optimizer = build_optimizer(work)
    x, y = _first(work)
    report = torchtest2.check_model(work.model, x, y, loss_fn=work.loss, optimizer=optimizer, gradcheck=True)
    said = []
    for result in (*report.failures, *report.warnings):
        name = result.name
        if name == "initial_loss":
            name = "low" if result.details["value"] < result.details["expected"] else "high"
        said.append(Said(f"{result.name}: {result.message}", _codes(TORCHTEST2.get(name, ""))))
    return said


def torchdiag(work: Work) -> list[Said]:
    """Its three checks, in the order of its own quick start."""
    import torchdiag

    optimizer, said = build_optimizer(work), list[Said]()
    x, y = _first(work)
    with contextlib.redirect_stdout(io.StringIO()):
        dead = torchdiag.check_dead_neurons(work.model, x)
        step = torchdiag.verify_step(work.model, optimizer, work.loss, x, y)
        gradients = torchdiag.check_gradients(work.model)
    if any(layer["dead_pct"] > 20 for layer in dead.values()):
        said.append(Said("dead neurons", _codes("GRAD004 INIT005")))
    loss = step.get("loss")
    if not isinstance(loss, float) or not math.isfinite(loss):
        said.append(Said("loss is not finite", _codes("NUM001 NUM002")))
    if step.get("params_unchanged") and not step.get("params_updated"):
        said.append(Said("no parameter changed", _codes("GRAD007 GRAD011 GRAD003")))
    states = {each["status"] for each in gradients.values()}
    for state, codes in (
        ("EXPLODE", "GRAD002 DATA002 DATA012 INIT001 INIT007"),
        ("VANISH", "GRAD001 GRAD013 INIT002 INIT004"),
        ("no_grad", "GRAD003"),
    ):
        if state in states:
            said.append(Said(f"gradients: {state}", _codes(codes)))
    return said


class Torcheck:
    """torcheck: parameters change, and nothing is NaN or infinite."""

    def __init__(self, work: Work, optimizer: torch.optim.Optimizer) -> None:
        import torcheck

        self.said: list[Said] = []
        registry = type(torcheck.registry)()
        plain_step = optimizer.step
        registry.register(optimizer)
        for name, parameter in work.model.named_parameters():
            if parameter.requires_grad:
                try:
                    registry.add_tensor(
                        tensor=parameter, tensor_name=name, changing=True, check_nan=True, check_inf=True
                    )
                except RuntimeError as error:
                    self._note(error, "GRAD007")
        optimizer.step = self._guard(optimizer.step, plain_step)  # type: ignore[method-assign]

    def _guard(self, checked: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
        """Its errors end a training run; here they are noted, and training goes on without it."""

        def step(*arguments: Any, **named: Any) -> Any:
            if self.said:
                return plain(*arguments, **named)
            try:
                return checked(*arguments, **named)
            except RuntimeError as error:
                text = str(error)
                self._note(error, "NUM001 NUM002 LR003" if "NaN" in text or "inf" in text.lower() else UNCHANGED)
            return None

        return step

    def _note(self, error: Exception, codes: str) -> None:
        if len(self.said) < 5:
            self.said.append(Said(str(error).splitlines()[0][:200], _codes(codes)))

    def step(self, loss: Tensor) -> None:
        """Pass."""

    def finish(self) -> list[Said]:
        """Return what it said."""
        return self.said


UNCHANGED = "GRAD003 GRAD004 GRAD007 GRAD011 GRAD013"


class TorchAudit:
    """torch-audit: autopatch, one audit in so many steps."""

    def __init__(self, work: Work, optimizer: torch.optim.Optimizer) -> None:
        from torch_audit import autopatch

        self._auditor = autopatch(work.model, optimizer=optimizer, every_n_steps=AUDIT_EVERY)

    def step(self, loss: Tensor) -> None:
        """Pass: it hears of steps by itself."""

    def finish(self) -> list[Said]:
        """Return findings of severity WARN or worse."""
        self._auditor.unpatch()
        found = self._auditor.finish().findings
        grave = {f.rule_id: f.message for f in found if f.severity.value != "INFO"}
        return [Said(f"{rule}: {message}", _codes(TORCH_AUDIT.get(rule, ""))) for rule, message in grave.items()]


class Torchmortem:
    """torchmortem: two lines in the loop, a report behind it."""

    def __init__(self, work: Work, optimizer: torch.optim.Optimizer) -> None:
        from torchmortem import Autopsy

        self._autopsy = Autopsy(work.model, optimizer=optimizer)
        self._autopsy.attach()

    def step(self, loss: Tensor) -> None:
        """Tell of a step."""
        self._autopsy.step(loss=float(loss.detach()))

    def finish(self) -> list[Said]:
        """Return findings of severity WARNING or worse."""
        self._autopsy.detach()
        report = self._autopsy.get_report()
        grave = [f for f in (report.findings if report else ()) if f.severity.name != "INFO"]
        return [Said(f.title, _codes(next((v for k, v in TORCHMORTEM.items() if k in f.title), ""))) for f in grave]


class Observatory:
    """neural-observatory: watch, step before each forward pass, report."""

    def __init__(self, work: Work, optimizer: torch.optim.Optimizer) -> None:
        from neural_observatory import Observatory, ObservatoryConfig

        del optimizer
        self._observatory = Observatory(work.model, config=ObservatoryConfig(stats_only_mode=True))
        self._observatory.watch()
        self._step = 0
        self._observatory.step(step=0, epoch=0)

    def step(self, loss: Tensor) -> None:
        """Tell of the step to come."""
        del loss
        self._step += 1
        self._observatory.step(step=self._step, epoch=0)

    def finish(self) -> list[Said]:
        """Return warnings of results that it calls warning or critical."""
        self._observatory.stop()
        said = []
        for result in self._observatory.report().results:
            if result.status.value in ("warning", "critical"):
                text = " ".join(result.warnings)
                codes = " ".join(codes for word, codes in OBSERVATORY.items() if word in text.lower())
                said.append(Said(f"{result.analyzer_name} {result.layer_name}: {text}"[:200], _codes(codes)))
        return said


BEFORE: dict[str, tuple[str, Callable[[Work], list[Said]]]] = {
    "torchtest2": ("torchtest2", torchtest2),
    "torchdiag": ("torchdiag", torchdiag),
}
"""Tools that are asked before training: package, function."""
DURING: dict[str, tuple[str, Callable[[Work, torch.optim.Optimizer], Any]]] = {
    "torcheck": ("torcheck", Torcheck),
    "torch-audit": ("torch_audit", TorchAudit),
    "torchmortem": ("torchmortem", Torchmortem),
    "neural-observatory": ("neural_observatory", Observatory),
}
"""Tools that watch training: package, class."""
ANOMALY = "detect_anomaly"
"""PyTorch's own: backward raises where it gives NaN."""


def installed() -> list[str]:
    """Return the tools that can be imported here."""
    return [name for name, (package, _) in {**BEFORE, **DURING}.items() if importlib.util.find_spec(package)]


def _first(work: Work) -> tuple[Tensor, Tensor]:
    rows = slice(0, min(FIRST_BATCH, work.batch_size) if work.batch_size > 1 else 2)
    return work.data.train[0][rows].clone(), work.data.train[1][rows].clone()


def before(name: str, work: Work) -> list[Said]:
    """Ask a tool before training."""
    return BEFORE[name][1](work)


class _Listener:
    """Hands what the loop tells to the tools, and sees whether loss and weights stayed finite."""

    def __init__(self, tools: Sequence[Any]) -> None:
        self.tools, self.finite = tools, True

    def step(self, loss: Tensor, batch: Sequence[Tensor]) -> None:
        """Tell of a step."""
        del batch
        self.finite = self.finite and bool(torch.isfinite(loss))
        for tool in self.tools:
            tool.step(loss)

    def evaluate(self, *_: Any, **__: Any) -> None:
        """Pass: none of them wants to know."""


def during(names: Sequence[str], work: Work) -> tuple[dict[str, list[Said]], bool]:
    """Train once with all tools that watch; return what each said, and whether all numbers stayed finite."""
    optimizer = build_optimizer(work)
    tools = {name: DURING[name][1](work, optimizer) for name in names}
    listener = _Listener(list(tools.values()))
    train(work, optimizer, listener)
    finite = listener.finite and all(bool(torch.isfinite(p).all()) for p in work.model.parameters())
    return {name: tool.finish() for name, tool in reversed(tools.items())}, finite


def anomaly(work: Work) -> list[Said]:
    """Train in PyTorch's anomaly mode."""
    try:
        with torch.autograd.set_detect_anomaly(True):  # type: ignore[no-untyped-call]
            train(work, build_optimizer(work), _Listener(()))
    except RuntimeError as error:
        if "nan" not in str(error).lower():
            raise
        return [Said(str(error).splitlines()[0], _codes("NUM001 NUM002 LR003"))]
    return []
