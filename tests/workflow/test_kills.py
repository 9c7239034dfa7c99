"""Six runs killed at random moments end as runs that nobody killed; benchmarks/faults.py does many more."""

import json
import subprocess
import sys
from pathlib import Path

FAULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "faults.py"


def test_six_kills_leave_no_trace() -> None:
    command = [sys.executable, str(FAULTS), "--kills", "6", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["runs"] == found["identical"] == 6
    assert found["kills"] >= 6
    assert found["different"] == []
    assert sum(found["phases"].values()) == found["kills"]
