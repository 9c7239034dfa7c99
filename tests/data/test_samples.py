"""The embedded samples, against scikit-learn's own loaders."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn import datasets

from caviar.core.errors import InputError
from caviar.data.samples import SAMPLES, open_sample


@pytest.mark.parametrize("name", ["digits", "iris", "wine", "breast_cancer"])
def test_classification_samples(name: str) -> None:
    raw, wanted = open_sample(name), getattr(datasets, f"load_{name}")()
    np.testing.assert_array_equal(raw.inputs.numpy(), wanted.data)
    np.testing.assert_array_equal(raw.targets, wanted.target)
    assert raw.classes == tuple(str(label) for label in wanted.target_names)
    assert (raw.kind, raw.task, raw.inputs.dtype) == ("arrays", "classification", torch.float64)
    assert raw.parts == {"train": len(wanted.target)}


def test_diabetes() -> None:
    raw, wanted = open_sample("sample:diabetes"), datasets.load_diabetes(scaled=False)
    np.testing.assert_array_equal(raw.inputs.numpy(), wanted.data)
    np.testing.assert_array_equal(raw.targets, wanted.target)
    assert (raw.task, raw.classes, raw.targets.dtype) == ("regression", (), np.float64)


def test_digits_as_pictures() -> None:
    raw, wanted = open_sample("digits-pictures"), datasets.load_digits()
    assert raw.kind == "pictures"
    assert raw.inputs.dtype == np.uint8
    np.testing.assert_array_equal(raw.inputs[..., 0], np.rint(wanted.images * 255 / 16))
    np.testing.assert_array_equal(raw.targets, wanted.target)


def test_digests_differ_and_repeat() -> None:
    digests = {name: open_sample(name).digest for name in SAMPLES}
    assert len(set(digests.values())) == len(SAMPLES)
    assert open_sample("iris").digest == digests["iris"]


def test_unknown_sample_offers_the_nearest() -> None:
    with pytest.raises(InputError, match=r"unknown sample 'digit'\. Did you mean 'digits'\?"):
        open_sample("sample:digit")


def test_scikit_learn_is_not_imported() -> None:
    code = "import sys; from caviar.data.samples import open_sample as o; o('digits'); print('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
