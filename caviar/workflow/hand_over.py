"""What a finished run hands over: the bundle, evaluated on the test split."""

from dataclasses import replace
from typing import Any

import torch

from caviar.bundle import Bundle, Manifest
from caviar.bundle.forward import Outputs, loss_name, network_outputs
from caviar.bundle.predict import report_for
from caviar.bundle.settings import PredictionSettings
from caviar.core.jsonable import jsonable
from caviar.train.evaluate import outputs_of
from caviar.train.loop import Job, judged_model
from caviar.train.state import State
from caviar.workflow.plan import Plan
from caviar.workflow.prepare import raw_blocks


def finish(plan: Plan, job: Job, state: State) -> Bundle:
    """Put the best weights back, evaluate them on the test split, and make the bundle."""
    job.model.load_state_dict(state.best.weights or judged_model(job).state_dict())
    job.model.eval()
    bundle = Bundle(_manifest(plan), plan.prepared.preprocess, job.model, plan.prepared.scaler)
    outputs = _test_outputs(plan, job, bundle)
    report = report_for(bundle, outputs, plan.raw.targets[plan.splits.test], plan.recipe.seed)
    metrics = jsonable(report | {"best_epoch": state.best.epoch, "split": "test"})
    return replace(bundle, manifest=replace(bundle.manifest, metrics=metrics))


def _test_outputs(plan: Plan, job: Job, bundle: Bundle) -> Outputs:
    """Run the network over the test split: as prepared for training, or from raw input where more is to be done."""
    if plan.recipe.prediction == PredictionSettings():
        return Outputs(
            outputs_of(job.model, plan.prepared.examples["test"], job.prepare, job.device), loss_name(bundle)
        )
    return network_outputs(bundle, raw_blocks(plan.raw, plan.splits.test, bundle.preprocess))


def _manifest(plan: Plan) -> Manifest:
    raw, recipe, prepared = plan.raw, plan.recipe, plan.prepared
    train_targets = raw.targets[plan.splits.train]
    classification = raw.task == "classification"
    counts = torch.bincount(torch.from_numpy(train_targets)) if classification else None
    config = getattr(prepared.preprocess, "config")  # noqa: B009 (every preprocessing has one)
    return Manifest(
        kind=raw.kind,
        task=raw.task,
        classes=raw.classes,
        columns=raw.columns,
        target=recipe.data.target,
        input_shape=prepared.input_shape,
        outputs=len(raw.classes) if classification else 1,
        model=jsonable(recipe.model.model_dump()),
        preprocess=jsonable(config()),
        scaler=prepared.scaler.config() if prepared.scaler is not None else {},
        reading=_reading(plan),
        recipe=jsonable(recipe.model_dump()),
        majority=int(counts.argmax()) if counts is not None else 0,
        train_mean=0.0 if classification else float(train_targets.mean()),
    )


def _reading(plan: Plan) -> dict[str, Any]:
    data = plan.recipe.data
    if plan.raw.kind == "pictures":
        size = list(data.picture_size) if data.picture_size != "auto" else []
        return {"picture_size": size, "picture_mode": data.picture_mode, "max_pixels": data.max_pixels}
    if plan.raw.kind == "arrays":
        return {"array_shape": list(plan.raw.inputs.shape[1:])}
    return {"delimiter": data.delimiter, "encoding": data.encoding, "memory_budget": data.memory_budget}
