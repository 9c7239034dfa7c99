"""What is measured while a network trains, how, and when."""

from caviar.diagnose.quantities.members import MembersWatcher
from caviar.diagnose.quantities.names import QUANTITIES, Quantity
from caviar.diagnose.quantities.schedule import Schedule
from caviar.diagnose.quantities.smoothing import Smoother
from caviar.diagnose.quantities.watcher import Watcher

__all__ = ["QUANTITIES", "MembersWatcher", "Quantity", "Schedule", "Smoother", "Watcher"]
