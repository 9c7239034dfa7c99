"""Train healthy runs with and without --care, and compare the weights that they hand over, byte for byte.

    python benchmarks/care.py [--json]

Every run is a usual one: the samples, four networks, five update rules, schedules, penalties, averages. Where care made
no intervention, weights and records must be equal; where it made one, dev must not be worse by more than half a per
cent. Exit code 1 when either fails.
"""

import argparse
import json
import sys
import tempfile
from typing import Any

import caviar
from caviar.diagnose.quantities.names import MOMENTARY

DIGITS, DIABETES, IRIS = "sample:digits", "sample:diabetes", "sample:iris"
SHORT = {"training.epochs": 24, "device.threads": 1}
SGD = {"optimizer.name": "sgd", "optimizer.learning_rate": 0.05}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "digits": (DIGITS, {}),
    "digits, another seed": (DIGITS, {"seed": 1}),
    "digits, sgd": (DIGITS, SGD),
    "digits, sgd, one cycle": (DIGITS, {**SGD, "schedule.name": "one_cycle"}),
    "digits, constant rate": (DIGITS, {"schedule.name": "constant"}),
    "digits, warm-up": (DIGITS, {"schedule.warmup": 0.1}),
    "digits, nadam": (DIGITS, {"optimizer.name": "nadam"}),
    "digits, lion": (DIGITS, {"optimizer.name": "lion"}),
    "digits, rmsprop": (DIGITS, {"optimizer.name": "rmsprop"}),
    "digits, dropout": (DIGITS, {"model.dropout": 0.4}),
    "digits, no norm": (DIGITS, {"model.norm": "none"}),
    "digits, layer norm": (DIGITS, {"model.norm": "layer"}),
    "digits, tanh": (DIGITS, {"model.activation": "tanh"}),
    "digits, one wide layer": (DIGITS, {"model.widths": [256]}),
    "digits, three layers": (DIGITS, {"model.widths": [64, 64, 64]}),
    "digits, smoothed, clipped": (DIGITS, {"loss.label_smoothing": 0.1, "training.clip_norm": 1.0}),
    "digits, averaged": (DIGITS, {"average.name": "ema"}),
    "digits, decayed": (DIGITS, {"optimizer.weight_decay": 0.05}),
    "diabetes": (DIABETES, {}),
    "iris": (IRIS, {}),
}
"""Name -> source and settings."""


def weights(run: caviar.Run) -> dict[str, bytes]:
    """Return the weights that a run hands over."""
    return {path.name: path.read_bytes() for path in (run.path / "bundle").glob("*.safetensors")}


def records(run: caviar.Run) -> list[tuple[str, ...]]:
    """Return all that was recorded, but for what a clock decides."""
    return [tuple(map(repr, record)) for record in run.records() if record.name not in MOMENTARY]


def compare(name: str) -> dict[str, Any]:
    """Train one set-up twice."""
    source, own = RUNS[name]
    settings = {**SHORT, **own}
    with tempfile.TemporaryDirectory() as place:
        plain, cared = (
            caviar.train(source, settings=settings, care=care, runs_dir=place, name=f"care-{care}", progress=False)
            for care in (False, True)
        )
        key = next(key for key in plain.summary["best"] if key in ("dev_accuracy", "dev_r2"))
        acts = cared.summary.get("interventions", [])
        return {
            "run": name,
            "interventions": [act["settings"] for act in acts],
            "equal": weights(plain) == weights(cared) and records(plain) == records(cared),
            "plain": plain.summary["best"][key],
            "cared": cared.summary["best"][key],
        }


def main() -> None:
    """Compare all, print a line each, and exit with 1 when care did harm."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    rows = []
    for name in RUNS:
        rows.append(compare(name))
        if not arguments.json:
            row = rows[-1]
            said = "equal" if row["equal"] else f"changed {row['interventions'] or 'without an intervention'}"
            print(f"{name:28} plain {row['plain']:.4f}  with care {row['cared']:.4f}  {said}", flush=True)
    harmed = [
        row["run"]
        for row in rows
        if (not row["equal"] if not row["interventions"] else row["cared"] < row["plain"] - 0.005)
    ]
    untouched = sum(not row["interventions"] for row in rows)
    summary = {"runs": len(rows), "without_an_intervention": untouched, "harmed": harmed}
    print(json.dumps({"rows": rows, **summary}, indent=2) if arguments.json else summary)
    sys.exit(1 if harmed else 0)


if __name__ == "__main__":
    main()
