"""The population engine: many models of one architecture trained together."""

from caviar.population.cohort import NAMES, Cohort, Executor, Step
from caviar.population.cohorts import Cohorts
from caviar.population.executors import KINDS, Layout, Timing, build_executor, candidates, choose
from caviar.population.population import Population
from caviar.population.views import Views

__all__ = [
    "KINDS",
    "NAMES",
    "Cohort",
    "Cohorts",
    "Executor",
    "Layout",
    "Population",
    "Step",
    "Timing",
    "Views",
    "build_executor",
    "candidates",
    "choose",
]
