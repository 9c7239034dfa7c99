"""When a run's weights go into their running average: from the section [average] to what the loop calls."""

from dataclasses import dataclass

from torch import nn

from caviar.core.errors import InputError
from caviar.optim.average_settings import AverageSettings, EMASettings, SWASettings
from caviar.optim.averages import AveragedModel, share_of_present


@dataclass(frozen=True)
class Averaging:
    """A running average of the weights, taken in `every` so many steps after step `start`."""

    average: AveragedModel
    start: int
    every: int

    def after_step(self, model: nn.Module, step: int) -> None:
        """Take the weights in after `step` (counted from 1) when it is time."""
        if step > self.start and (step - self.start) % self.every == 0:
            self.average.update(model)

    @property
    def begun(self) -> bool:
        """Whether anything has been averaged yet."""
        return self.average.num_updates > 0


@dataclass(frozen=True)
class AverageTimes:
    """When weights go into their average, and with what share: for members, whose averages all move at once."""

    decay: float | None
    warm_up: bool
    start: int
    every: int

    def share(self, step: int) -> float | None:
        """Return the share that the weights get after `step` (counted from 1), or None when it is not time."""
        if step <= self.start or (step - self.start) % self.every:
            return None
        return float(share_of_present(self.decay, (step - self.start) // self.every - 1, warm_up=self.warm_up))

    def begun(self, step: int) -> bool:
        """Whether anything has been averaged after `step` steps."""
        return step - self.start >= self.every


def average_times(settings: AverageSettings, epochs: int, steps_per_epoch: int) -> AverageTimes | None:
    """Return when the section [average] asks for an update; None for "none"."""
    check_average(settings, epochs)
    if isinstance(settings, EMASettings):
        return AverageTimes(settings.decay, settings.warm_up, 0, settings.every)
    if isinstance(settings, SWASettings):
        start = _first_epoch(settings, epochs) * steps_per_epoch
        return AverageTimes(None, False, start, settings.every * steps_per_epoch)
    return None


def build_averaging(settings: AverageSettings, model: nn.Module, epochs: int, steps_per_epoch: int) -> Averaging | None:
    """Return what the section [average] asks for, beginning with the model's present weights; None for "none".

    Buffers are those of the model, so batch norm's statistics must be taken anew before the average is used (see
    `caviar.nn.recalibrate`).
    """
    times = average_times(settings, epochs, steps_per_epoch)
    if times is None:
        return None
    average = AveragedModel(model, times.decay, warm_up=times.warm_up, average_buffers=False)
    return Averaging(average, times.start, times.every)


def check_average(settings: AverageSettings, epochs: int) -> None:
    """Raise an InputError when a run of so many epochs would end before the first average."""
    if isinstance(settings, SWASettings) and _first_epoch(settings, epochs) + settings.every > epochs:
        raise InputError(
            f"average.start is {settings.start} and average.every {settings.every}, but training has {epochs} epochs: "
            "it would end before anything is averaged. Begin earlier, or train longer."
        )


def _first_epoch(settings: SWASettings, epochs: int) -> int:
    """Return how many epochs pass before averaging begins; a share of a short run is rounded down."""
    return settings.start if isinstance(settings.start, int) else int(settings.start * epochs)
