"""Penalties and limits in the loop, against the same written by hand."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from caviar.core.seeds import epoch_order
from caviar.nn import Regularizer, l1_penalty, l2_penalty, regularised_weights
from caviar.train.loop import Job, StopRequest, train
from caviar.train.state import State
from tests.train.conftest import small_net


def test_the_loop_adds_penalties_before_the_clip_and_limits_after_the_step(make_job: Callable[..., Job]) -> None:
    model = small_net()
    twin = copy.deepcopy(model)
    weights = regularised_weights(model)
    job = make_job(
        model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        schedule=lambda step: 0.1,
        epochs=1,
        clip_norm=0.5,
        regularizer=Regularizer(weights, l1=0.01, l2=0.1, max_norm=0.4),
    )
    train(job, State(), None, [], StopRequest())

    own = regularised_weights(twin)
    order = epoch_order(job.seed, 1, len(job.train))
    sgd = torch.optim.SGD(twin.parameters(), lr=0.1)
    for rows in torch.split(order, 10):
        loss: Tensor = job.loss(twin(job.train.inputs[rows]), job.train.targets[rows])
        sgd.zero_grad()
        (loss + l1_penalty(own, 0.01) + l2_penalty(own, 0.1)).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
        sgd.step()
        with torch.no_grad():
            for weight in own:
                weight.copy_(torch.renorm(weight, 2, 0, 0.4))
    for ours, expected in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    assert all((weight.norm(dim=1) <= 0.4001).all() for weight in weights)
