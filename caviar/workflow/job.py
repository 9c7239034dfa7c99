"""From a plan to what the training loop needs."""

import torch

from caviar.nn import build_loss, build_regularizer, has_batch_norm
from caviar.optim import build_averaging, build_momentum_schedule, build_optimizer, build_schedule, momentum_of
from caviar.train.batching import batch_bounds
from caviar.train.loop import Job
from caviar.workflow.plan import Plan


def build_job(plan: Plan) -> Job:
    """Turn a plan into what the loop needs."""
    recipe, training = plan.recipe, plan.recipe.training
    epochs, batch_size, patience, clip = training.epochs, training.batch_size, training.patience, training.clip_norm
    assert isinstance(epochs, int)
    assert isinstance(batch_size, int)
    assert training.metric != "auto"
    learning_rate = recipe.optimizer.learning_rate
    assert isinstance(learning_rate, float)
    merge_single = has_batch_norm(plan.model)
    examples = plan.prepared.examples
    counts = _class_counts(plan) if plan.raw.task == "classification" else None
    per_epoch = len(batch_bounds(len(examples["train"]), batch_size, merge_single=merge_single))
    steps, schedule = epochs * per_epoch, recipe.schedule
    return Job(
        model=plan.model,
        loss=build_loss(recipe.loss, plan.raw.task, class_counts=counts),
        loss_per_example=build_loss(recipe.loss, plan.raw.task, "none", class_counts=counts),
        optimizer=build_optimizer(recipe.optimizer, plan.model),
        schedule=build_schedule(schedule, learning_rate, steps, per_epoch, training.metric),
        momentum=build_momentum_schedule(schedule, momentum_of(recipe.optimizer), steps),
        train=examples["train"],
        dev=examples["dev"],
        prepare=plan.prepared.prepare,
        device=plan.device,
        task=plan.raw.task,
        metric=training.metric,
        epochs=epochs,
        batch_size=batch_size,
        merge_single=merge_single,
        patience=patience if isinstance(patience, int) else None,
        clip_norm=clip if isinstance(clip, float) else None,
        autocast=recipe.device.precision == "bf16",
        compile=recipe.device.compile,
        checkpoint_seconds=training.checkpoint_seconds,
        seed=recipe.seed,
        augment=plan.prepared.augment,
        regularizer=build_regularizer(recipe.regularization, plan.model),
        average=build_averaging(recipe.average, plan.model, epochs, per_epoch),
    )


def _class_counts(plan: Plan) -> list[int]:
    """Return how many training examples each class has."""
    labels = torch.from_numpy(plan.raw.targets[plan.splits.train])
    counts: list[int] = torch.bincount(labels, minlength=len(plan.raw.classes)).tolist()
    return counts
