from typing import get_args

from caviar.nn import ACTIVATION_FACTS, INITIALISERS, LOSSES
from caviar.nn.catalogue import CATALOGUE
from caviar.nn.initialise import BASES
from caviar.nn.settings import (
    Activation,
    ConvNetSettings,
    DropoutForm,
    InitName,
    LossSettings,
    RegularizationSettings,
)


def test_the_catalogue_names_what_recipes_allow_and_the_code_has() -> None:
    norms = get_args(ConvNetSettings.model_fields["norm"].annotation)
    losses = [kind.model_fields["name"].default for kind in get_args(get_args(LossSettings)[0])]
    allowed = {
        "model.activation": get_args(Activation),
        "model.init": get_args(InitName),
        "model.norm": norms,
        "model.dropout_form": get_args(DropoutForm),
        "loss.name": losses,
        "regularization": RegularizationSettings.model_fields,
    }
    assert {key: set(names) for key, names in allowed.items()} == {key: set(of) for key, of in CATALOGUE.items()}
    assert set(CATALOGUE["model.activation"]) == set(ACTIVATION_FACTS)
    assert set(CATALOGUE["model.init"]) == {"auto", *INITIALISERS, *BASES}
    assert set(CATALOGUE["loss.name"]) == {"auto", *LOSSES}


def test_every_line_is_one_short_line() -> None:
    lines = [line for names in CATALOGUE.values() for line in names.values()]
    assert all(5 < len(line) <= 100 and "\n" not in line for line in lines)
