"""What is wrong with a training set-up: checks before the long run."""

from caviar.diagnose.checks import CHECKS, Check, check_codes, run_checks
from caviar.diagnose.checks_setup import Batch, CheckReport, CheckResult, Held, Setup

__all__ = ["CHECKS", "Batch", "Check", "CheckReport", "CheckResult", "Held", "Setup", "check_codes", "run_checks"]
