"""How fast caviar reads: a large CSV beside Polars' bare read, pictures beside a bare pool of Pillow processes.

    python benchmarks/reading.py                                # makes its own table and pictures
    python benchmarks/reading.py --pictures cifar10 --json      # with a folder of pictures, here CIFAR-10

Every measurement is a process of its own with an empty cache; competitors take turns, medians are compared. Times are
wall time without imports. Memory is the peak of the process above what it needed after its imports.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing import Pool
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

MEBIBYTE = 1 << 20
TARGETS = {"table_time": 2.0, "table_memory": 3.0, "picture_rate": 1.0, "second_start_seconds": 2.0}


def make_table(path: Path, rows: int) -> None:
    """Write 20 columns: 11 measurements, 4 counts, 3 categories, 1 truth value with gaps here and there, 1 target."""
    import polars as pl

    generator = np.random.default_rng(0)
    columns: dict[str, Any] = {f"measure_{i}": generator.normal(100, 15, rows).round(4) for i in range(11)}
    columns |= {f"count_{i}": generator.integers(0, 10 ** (i + 1), rows) for i in range(4)}
    towns = np.array([f"town {i}" for i in range(200)])
    columns |= {f"town_{i}": towns[generator.integers(0, 10**i * 2, rows)] for i in range(3)}
    columns["member"] = generator.random(rows) < 0.3
    columns["target"] = np.array(["no", "yes"])[generator.integers(0, 2, rows)]
    frame = pl.DataFrame(columns)
    gaps = pl.Series(generator.random(rows) < 0.02)
    frame.with_columns(pl.when(~gaps).then(pl.col("measure_3", "town_1")).name.keep()).write_csv(path)


def make_pictures(folder: Path, count: int) -> None:
    """Write `count` JPEG pictures of 32 x 32 in ten classes."""
    from PIL import Image

    generator = np.random.default_rng(0)
    for label in range(10):
        (folder / f"class_{label}").mkdir(parents=True)
    for number in range(count):
        coarse = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((32, 32), Image.Resampling.BICUBIC)
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=90)
        (folder / f"class_{number % 10}" / f"{number:05}.jpg").write_bytes(file.getvalue())


# One job is one measurement. It does its imports, then returns the function to measure.


def job_table_polars(path: str) -> Callable[[], int]:
    """Polars' bare read."""
    import polars as pl

    return lambda: pl.read_csv(path).height


def job_table_caviar(path: str) -> Callable[[], int]:
    """caviar's reading, checking, typing and fitting."""
    import polars as pl

    from caviar.data.settings import DataSettings, SplitSettings
    from caviar.data.tables import open_table
    from caviar.preprocess import fit_table
    from caviar.preprocess.settings import PreprocessSettings

    def work() -> int:
        raw = open_table(path, DataSettings(target="target"), SplitSettings())

        def blocks() -> Iterator[pl.DataFrame]:
            yield from raw.inputs.iter_slices(262_144)

        fit_table(blocks, raw.columns, PreprocessSettings())
        return len(raw)

    return work


def decode_one(path: str) -> Any:
    """Decode one picture as everybody would."""
    from PIL import Image

    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def job_pictures_pool(folder: str) -> Callable[[], int]:
    """A bare pool of processes, as many as processors, each giving arrays back."""
    paths = [str(path) for path in Path(folder).rglob("*.jpg")]

    def work() -> int:
        with Pool(len(os.sched_getaffinity(0))) as pool:
            return sum(1 for _ in pool.imap_unordered(decode_one, paths, chunksize=64))

    return work


def job_pictures_caviar(folder: str) -> Callable[[], int]:
    """caviar's folder scan, checks, digests, decoding and cache file."""
    from caviar.data.pictures import open_pictures
    from caviar.data.settings import DataSettings

    return lambda: len(open_pictures(folder, DataSettings()))


JOBS = {
    "table_polars": job_table_polars,
    "table_caviar": job_table_caviar,
    "pictures_pool": job_pictures_pool,
    "pictures_caviar": job_pictures_caviar,
    "pictures_again": job_pictures_caviar,
}


def memory(field: str) -> int:
    """Return VmRSS or VmHWM (its peak) of this process in bytes, or 0 where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), 0)


def run_job(name: str, source: str) -> None:
    """Measure one job in this process and print what came out as JSON."""
    work = JOBS[name](source)
    before, started = memory("VmRSS"), time.perf_counter()
    rows = work()
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "memory": memory("VmHWM") - before, "rows": rows}))


def measure(name: str, source: Path, cache: Path) -> dict[str, float]:
    """Run one job in a fresh process."""
    found = subprocess.run(
        [sys.executable, __file__, "--job", name, str(source)],
        env={**os.environ, "CAVIAR_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result: dict[str, float] = json.loads(found.stdout)
    return result


def measure_table(folder: Path, rows: int, repeats: int) -> dict[str, Any]:
    """Compare the reading of a CSV of `rows` rows and 20 columns."""
    path = folder / "table.csv"
    make_table(path, rows)
    measure("table_polars", path, folder)  # the file is in the system's memory from now on
    runs: dict[str, list[dict[str, float]]] = {"table_polars": [], "table_caviar": []}
    for number in range(repeats):
        for name, results in runs.items():
            results.append(measure(name, path, folder / f"cache-{number}"))
    polars, caviar = (median(run["seconds"] for run in results) for results in runs.values())
    peak = {name: median(run["memory"] for run in results) for name, results in runs.items()}
    data = rows * 20 * 8
    return {
        "rows": rows,
        "csv_mib": path.stat().st_size / MEBIBYTE,
        "polars_seconds": polars,
        "caviar_seconds": caviar,
        "table_time": caviar / polars,
        "data_mib": data / MEBIBYTE,
        "polars_peak_mib": peak["table_polars"] / MEBIBYTE,
        "caviar_peak_mib": peak["table_caviar"] / MEBIBYTE,
        "table_memory": peak["table_caviar"] / data,
    }


def measure_pictures(folder: Path, pictures: Path, repeats: int) -> dict[str, Any]:
    """Compare the decoding of a folder of pictures into the cache, then its second opening."""
    measure("pictures_pool", pictures, folder)
    runs: dict[str, list[dict[str, float]]] = {"pictures_pool": [], "pictures_caviar": [], "pictures_again": []}
    for number in range(repeats):
        for name, results in runs.items():
            results.append(measure(name, pictures, folder / f"cache-{number}"))
    pool, caviar, again = (median(run["seconds"] for run in results) for results in runs.values())
    count = int(runs["pictures_caviar"][0]["rows"])
    return {
        "pictures": count,
        "pool_per_second": count / pool,
        "caviar_per_second": count / caviar,
        "picture_rate": pool / caviar,
        "second_start_seconds": again,
    }


def show(result: dict[str, Any]) -> None:
    """Print the comparison as one table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Reading")
    for column in ("what", "caviar", "beside it", "ratio", "target"):
        table.add_column(column, justify="left" if column == "what" else "right")
    t, p = result.get("table"), result.get("pictures")
    if t:
        what = f"CSV, {t['rows']:,} x 20, {t['csv_mib']:.0f} MiB"
        times = f"{t['caviar_seconds']:.2f} s", f"Polars {t['polars_seconds']:.2f} s"
        table.add_row(f"{what}: time", *times, f"{t['table_time']:.2f}", f"at most {TARGETS['table_time']:g}")
        peaks = f"{t['caviar_peak_mib']:.0f} MiB", f"data {t['data_mib']:.0f} MiB"
        table.add_row(
            f"{what}: peak memory", *peaks, f"{t['table_memory']:.2f}", f"at most {TARGETS['table_memory']:g}"
        )
    if p:
        rates = f"{p['caviar_per_second']:,.0f} /s", f"Pillow pool {p['pool_per_second']:,.0f} /s"
        target = f"at least {TARGETS['picture_rate']:g}"
        table.add_row(f"{p['pictures']:,} pictures, first time", *rates, f"{p['picture_rate']:.2f}", target)
        limit = TARGETS["second_start_seconds"]
        table.add_row(
            "the same pictures, second time", f"{p['second_start_seconds']:.2f} s", "", "", f"under {limit:g} s"
        )
    Console().print(table)


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["table", "pictures"], help="one half only")
    parser.add_argument("--pictures", type=Path, help="a folder of JPEG pictures; without it 60,000 are made")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the table (default 1,000,000)")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each, of which the median counts")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--job", nargs=2, metavar=("NAME", "SOURCE"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.job:
        run_job(*chosen.job)
        return
    result: dict[str, Any] = {"version": 1, "processors": len(os.sched_getaffinity(0)), "targets": TARGETS}
    with tempfile.TemporaryDirectory(prefix="caviar-reading-") as name:
        folder = Path(name)
        if chosen.only != "pictures":
            result["table"] = measure_table(folder, chosen.rows, chosen.repeats)
        if chosen.only != "table":
            pictures = chosen.pictures or folder / "pictures"
            if not pictures.is_dir():
                make_pictures(pictures, 60_000)
            result["pictures"] = measure_pictures(folder, pictures.resolve(), chosen.repeats)
    if chosen.json:
        print(json.dumps(result, indent=2))
    else:
        show(result)


if __name__ == "__main__":
    main()
