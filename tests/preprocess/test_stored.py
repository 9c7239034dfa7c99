"""What a bundle holds may be anything; a module comes out of sound data only."""

import copy
import json
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load, save

from caviar.core.columns import Column
from caviar.core.errors import InputError
from caviar.preprocess import fit_arrays, fit_pictures, fit_table, rebuild
from caviar.preprocess.settings import PreprocessSettings

SETTINGS = PreprocessSettings()
FRAME = pl.DataFrame({"n": [1.0, None, 3.0], "c": ["x", "y", None]})
TABLE = fit_table(lambda: [FRAME], [Column("n", "numeric"), Column("c", "categorical")], SETTINGS)
PICTURES = fit_pictures(lambda: [np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3)], SETTINGS)
ARRAYS = fit_arrays(lambda: [np.arange(12.0).reshape(4, 3)], SETTINGS)


@pytest.mark.parametrize("module", [TABLE, PICTURES, ARRAYS], ids=["table", "pictures", "arrays"])
def test_round_trip_through_json_and_safetensors(module):
    tensors = load(save({name: tensor.contiguous() for name, tensor in module.state_dict().items()}))
    again = rebuild(json.loads(json.dumps(module.config(), allow_nan=False)), tensors)
    assert type(again) is type(module)
    assert again.config() == module.config()
    assert all(again.state_dict()[name].equal(tensor) for name, tensor in module.state_dict().items())


def changed(**changes):
    config = copy.deepcopy(TABLE.config())
    config.update(changes)
    return config


BAD_CONFIGS = {
    "empty": {},
    "not a mapping": [],
    "unknown kind": changed(kind="pickle"),
    "unknown key": changed(code="import os"),
    "columns": changed(columns="n"),
    "kind of column": changed(columns=[{"name": "n", "kind": "date"}, {"name": "c", "kind": "categorical"}]),
    "twice": changed(columns=[{"name": "n", "kind": "numeric"}, {"name": "n", "kind": "numeric"}], vocabularies={}),
    "no vocabulary": changed(vocabularies={}),
    "category twice": changed(vocabularies={"c": {"categories": ["x", "x"], "has_missing": True}}),
    "category number": changed(vocabularies={"c": {"categories": [1], "has_missing": True}}),
    "gap": changed(gaps=["c"]),
    "missing": changed(missing="mean"),
    "pictures": {"kind": "pictures", "mode": "channel_zscore", "channels": 0},
    "arrays": {"kind": "arrays", "numeric": "zscore", "features": -1},
    "vast": {"kind": "arrays", "numeric": "zscore", "features": 10**18},
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_malformed_configs_are_refused(case):
    with pytest.raises(InputError, match="stored preprocessing"):
        rebuild(BAD_CONFIGS[case], TABLE.state_dict())


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "needs"),
        ({"extra": torch.zeros(1)}, "needs"),
        ({"center": torch.zeros(3, dtype=torch.float64)}, r"'center' is \(3,\)"),
        ({"center": torch.zeros(1)}, "float32"),
        ({"center": torch.full((1,), torch.nan, dtype=torch.float64)}, "NaN"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tensors, message):
    given = {**TABLE.state_dict(), **tensors} if tensors else {}
    with pytest.raises(InputError, match=message):
        rebuild(TABLE.config(), given)


def test_settings_do_not_wait_for_torch_or_polars():
    code = "import sys, caviar.preprocess.settings; print({'torch', 'polars'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
