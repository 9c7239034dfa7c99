"""Every scaling and decorrelation in a run on real data, from training to the bundle."""

from pathlib import Path

import numpy as np
import pytest

import caviar
from caviar.core.errors import InputError
from caviar.preprocess.settings import DECORRELATIONS, SCALINGS


@pytest.mark.parametrize("decorrelate", ["none", *DECORRELATIONS])
@pytest.mark.parametrize("numeric", ["none", *SCALINGS])
def test_arrays(tmp_path: Path, numeric: str, decorrelate: str) -> None:
    settings = {"preprocess.numeric": numeric, "preprocess.decorrelate": decorrelate}
    run = caviar.train("sample:diabetes", epochs=1, settings=settings, progress=False, runs_dir=tmp_path)
    again = caviar.load(run.path / "bundle")
    assert again.preprocess.config() == run.bundle.preprocess.config()  # type: ignore[operator]
    values = again.predict("sample:diabetes").values
    assert np.isfinite(values).all()
    assert np.array_equal(values, run.bundle.predict("sample:diabetes").values)


def test_number_of_directions(tmp_path: Path) -> None:
    def width(components: float | str) -> int:
        settings = {"preprocess.decorrelate": "pca", "preprocess.components": components}
        run = caviar.train("sample:diabetes", epochs=1, settings=settings, progress=False, runs_dir=tmp_path)
        return int(run.bundle.manifest.input_shape[0])

    assert width("all") == 10
    assert width(3) == 3
    assert 1 < width(0.9) < 10
    with pytest.raises(InputError, match="components is 11, but there are only 10 columns"):
        width(11)
