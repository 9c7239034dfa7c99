"""The whole typed description of a run, put together from the settings that stand beside what they build."""

from collections.abc import Mapping
from typing import Annotated, Any, get_args

from pydantic import Discriminator, Field, Tag, ValidationError, field_validator

from caviar.augment.settings import AugmentSettings
from caviar.bundle.settings import PredictionSettings
from caviar.core.device_settings import DeviceSettings
from caviar.core.formats import RECIPE
from caviar.core.settings import Settings
from caviar.data.settings import DataSettings, SplitSettings
from caviar.diagnose.settings import WatchSettings
from caviar.nn.settings import (
    AutoLossSettings,
    CodeSettings,
    ConvNetSettings,
    GivenSettings,
    LossSettings,
    MLPSettings,
    RegularizationSettings,
)
from caviar.optim.settings import (
    AdamWSettings,
    AverageSettings,
    CosineSettings,
    NoAverageSettings,
    OptimizerSettings,
    ScheduleSettings,
)
from caviar.population.settings import PopulationSettings
from caviar.preprocess.settings import PreprocessSettings
from caviar.recipe.values import plain_value, strict_value
from caviar.train.settings import TrainingSettings

CODE = "module.path:callable"


def _model_tag(value: Any) -> str:
    name = value.get("name", "mlp") if isinstance(value, Mapping) else getattr(value, "name", "")
    return CODE if ":" in str(name) else str(name)


AnyModel = Annotated[
    Annotated[MLPSettings, Tag("mlp")]
    | Annotated[ConvNetSettings, Tag("convnet")]
    | Annotated[CodeSettings, Tag(CODE)]
    | Annotated[GivenSettings, Tag("given")],
    Discriminator(_model_tag),
]


class Recipe(Settings):
    """Everything that a run needs to know; equal recipes on equal data, machine and versions give equal runs."""

    version: Annotated[int, Field(ge=1, le=RECIPE)] = RECIPE
    """format version of this recipe"""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """where all randomness comes from: the same seed gives the same run"""
    data: DataSettings = DataSettings()
    """where the examples come from and how they are read"""
    split: SplitSettings = SplitSettings()
    """which examples train, which choose (dev) and which judge (test)"""
    preprocess: PreprocessSettings = PreprocessSettings()
    """how raw input becomes what the network sees; fitted on the training split only"""
    augment: AugmentSettings = AugmentSettings()
    """random changes of training pictures, drawn anew in every epoch"""
    model: AnyModel = MLPSettings()
    """the network: mlp, convnet, or module.path:callable (code of your own, behind --allow-code)"""
    loss: LossSettings = AutoLossSettings()
    """what training minimises: auto, cross_entropy, hinge, logistic, mean_squared_error or huber"""
    regularization: RegularizationSettings = RegularizationSettings()
    """penalties and limits on the weights"""
    optimizer: OptimizerSettings = AdamWSettings()
    """the update rule: sgd, adam, adamw, ... (see each name's own settings)"""
    schedule: ScheduleSettings = CosineSettings()
    """how the learning rate moves: constant, cosine, step, plateau, ..."""
    average: AverageSettings = NoAverageSettings()
    """which average of the weights is judged and handed over: none, ema or swa"""
    training: TrainingSettings = TrainingSettings()
    """how long, in what portions, and when to stop"""
    prediction: PredictionSettings = PredictionSettings()
    """what is averaged for one prediction, on the test split and later from the bundle"""
    population: PopulationSettings = PopulationSettings()
    """how many models train at once, and in what they differ"""
    watch: WatchSettings = WatchSettings()
    """what is measured while training, and who reads it; it never changes the result"""
    device: DeviceSettings = DeviceSettings()
    """where the run computes, and with which numbers"""

    @field_validator("model")
    @classmethod
    def _writable_arguments(cls, model: AnyModel) -> AnyModel:
        """Bring the arguments of a code model to what TOML can hold, so that writing a recipe never changes it."""
        if isinstance(model, CodeSettings):
            return model.model_copy(update={"arguments": plain_value(model.arguments)})
        return model

    @field_validator("population")
    @classmethod
    def _writable_values(cls, population: PopulationSettings) -> PopulationSettings:
        """Do the same with the values of members."""
        return population.model_copy(update={"vary": plain_value(population.vary)}) if population.vary else population


def _by_name(*kinds: type[Settings]) -> dict[str, type[Settings]]:
    return {kind.model_fields["name"].get_default() or CODE: kind for kind in kinds}


VARIANTS: dict[str, dict[str, type[Settings]]] = {
    "model": {"mlp": MLPSettings, "convnet": ConvNetSettings, CODE: CodeSettings, "given": GivenSettings},
    "loss": _by_name(*get_args(get_args(LossSettings)[0])),
    "optimizer": _by_name(*get_args(get_args(OptimizerSettings)[0])),
    "schedule": _by_name(*get_args(get_args(ScheduleSettings)[0])),
    "average": _by_name(*get_args(get_args(AverageSettings)[0])),
}
"""The sections whose keys depend on their `name`: section -> name -> settings."""

DEFAULT_NAMES = {"model": "mlp", "loss": "auto", "optimizer": "adamw", "schedule": "cosine", "average": "none"}
"""The name of a section that does not say one."""

PLAIN_SECTIONS: dict[str, type[Settings]] = {
    name: field.annotation
    for name, field in Recipe.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Settings)
}
"""The sections that always have the same keys: section -> settings."""

SECTIONS = [name for name in Recipe.model_fields if name in PLAIN_SECTIONS or name in VARIANTS]
"""All sections, in the order in which they are written."""


def variant_of(section: str, name: str) -> type[Settings] | None:
    """Return the settings that section `section` holds under `name`, or None when there is no such name."""
    return VARIANTS[section].get(CODE if section == "model" and ":" in name else name)


def accepts(kind: type[Settings], key: str, value: Any) -> bool:
    """Whether settings of class `kind` have `key` and allow `value` for it."""
    if key not in kind.model_fields:
        return False
    try:
        kind.model_validate({key: strict_value(value)}, strict=True)
    except ValidationError as error:
        return all(detail["loc"][:1] != (key,) for detail in error.errors())
    except ValueError:
        return False
    return True


def default_model_name(model_section: Mapping[str, Any], data_kind: str | None = None) -> str:
    """Choose the network for a model section without a name.

    By the kind of the data where it is known (pictures: convnet, else mlp), otherwise by which network knows the keys.
    """
    if data_kind not in (None, "auto"):
        return "convnet" if data_kind == "pictures" else "mlp"

    def num_known(name: str) -> int:
        return len(VARIANTS["model"][name].model_fields.keys() & model_section.keys())

    return "convnet" if num_known("convnet") > num_known("mlp") else "mlp"
