"""Bad recipes: the message says where, what arrived, what is allowed, what was meant; never Pydantic's words."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caviar.core.errors import InputError
from caviar.recipe import from_dict, merge, parse_assignment, parse_recipe, read_recipe, validate
from tests.recipe.recipes import PATIENT

JARGON = re.compile(
    r"pydantic|https?://|Input should|union|literal\[|constrained|Extra inputs|valid (string|integer)|ValidationError"
)

BAD = [
    (
        "[optimizer]\nlearning_rate = 0",
        'line 2, column 17: optimizer.learning_rate is 0; it must be "auto" or a number greater than 0.',
    ),
    (
        "[optimizer]\nlearning_rate = -1e-3",
        'line 2, column 17: optimizer.learning_rate is -0.001; it must be "auto" or a number greater than 0.',
    ),
    (
        "[optimizer]\nlearning_rate = nan",
        'optimizer.learning_rate is nan; it must be "auto" or a finite number greater than 0.',
    ),
    (
        "[optimizer]\nlearning_rate = inf",
        'optimizer.learning_rate is inf; it must be "auto" or a finite number greater than 0.',
    ),
    (
        "[optimizer]\nlearning_rate = true",
        'optimizer.learning_rate is true; it must be "auto" or a number greater than 0.',
    ),
    (
        "[optimizer]\nlearning_rate = '3'",
        'optimizer.learning_rate is "3"; it must be "auto" or a number greater than 0.',
    ),
    ("[optimizer]\nlearning_rate = 1" + "0" * 400, 'it must be "auto" or a finite number greater than 0.'),
    (
        "[optimizer]\nlearnin_rate = 1",
        "line 2, column 1: optimizer.learnin_rate is not a setting of adamw. Did you mean optimizer.learning_rate?",
    ),
    ("[optimizer]\nlr = 1", "Did you mean optimizer.learning_rate?"),
    (
        "[optimizer]\nmomentum = 0.9",
        "line 2, column 1: optimizer.momentum is not a setting of adamw; sgd, rmsprop and muon have it.",
    ),
    (
        "[optimizer]\nname = 'sgd'\nbetas = [0.9, 0.99]",
        "column 1: optimizer.betas is not a setting of sgd; adam, adamw, nadam, radam, ranger, lion and muon have it.",
    ),
    ("[optimizer]\nmomentun = 0.9", "Did you mean optimizer.momentum, a setting of sgd?"),
    (
        "[optimizer]\nname = 'adamm'",
        'line 2, column 8: optimizer.name is "adamm"; it must be "sgd", "adam", "adamw", "adagrad", ',
    ),
    ("[optimizer]\nname = 3", 'optimizer.name is 3; it must be "sgd", "adam", "adamw", "adagrad", "rmsprop", '),
    (
        "[optimizer]\nbetas = [0.9]",
        "line 2, column 9: optimizer.betas is [0.9]; it must be a list of 2 entries, each a number from 0 to below 1.",
    ),
    ("[optimizer]\nbetas = [0.9, 0.8, 0.7]", "it must be a list of 2 entries"),
    (
        "[optimizer]\nbetas = [0.9,\n  1.0]",
        "line 3, column 3: optimizer.betas is [0.9, 1.0] (entry 2 is 1.0); it must be",
    ),
    (
        "[optimizer]\nname = 'sgd'\nmomentum = 1",
        "line 3, column 12: optimizer.momentum is 1; it must be from 0 to below 1.",
    ),
    (
        "optimizer = 'sgd'",
        'line 1, column 13: optimizer is a section, but "sgd" arrived. Write its keys below [optimizer], or ',
    ),
    ("[[optimizer]]\nname = 'sgd'", "line 1, column 3: optimizer is a section"),
    ("[optimiser]\nname = 'sgd'", 'line 1, column 2: a recipe has no section "optimiser". Did you mean optimizer?'),
    ("[schedule]\nname = 'cosin'", 'Did you mean "cosine"?'),
    (
        "[schedule]\nname = 'constant'\nfinal = 0.1",
        "schedule.final is not a setting of constant; linear, cosine, cosine_restarts and polynomial have it.",
    ),
    ("[schedule]\nfinal = 2", "schedule.final is 2; it must be from 0 to 1."),
    ("epochs = 3", 'line 1, column 1: a recipe has no key "epochs". Did you mean training.epochs?'),
    ("lr = 3", "Did you mean optimizer.learning_rate?"),
    ("sead = 3", "Did you mean seed?"),
    ('[data]\n"a\\nb" = 3', r'line 2, column 1: data."a\nb" is not a setting.'),
    ('"a\\nb" = 3', r'line 1, column 1: a recipe has no key "a\nb".'),
    ("[data]\nepochs = 3", "data.epochs is not a setting. Did you mean training.epochs?"),
    (
        "[training]\nepochs = 0",
        'line 2, column 10: training.epochs is 0; it must be "auto" or a whole number of at least 1.',
    ),
    ("[training]\nepochs = 2.5", 'training.epochs is 2.5; it must be "auto" or a whole number of at least 1.'),
    ("[training]\nepochs = 3.0", 'it must be "auto" or a whole number'),
    ("[training]\nepochs = 'atuo'", 'Did you mean "auto"?'),
    (
        "[training]\nbatch_size = 0",
        'line 2, column 14: training.batch_size is 0; it must be "auto" or a whole number of at least 1.',
    ),
    ("training.batch_size = -5", 'line 1, column 23: training.batch_size is -5; it must be "auto" or'),
    ("training = { epochs = 3, batch_size = 0 }", "line 1, column 39: training.batch_size is 0"),
    ('"training"."batch_size" = 0', "line 1, column 27: training.batch_size is 0"),
    (
        "[training]\n# batch_size = 3\nbatch_size = true # batch_size = 0",
        "line 3, column 14: training.batch_size is true",
    ),
    ("[training]\nbatchsize = 3", "Did you mean training.batch_size?"),
    ("[training]\npatience = 0", 'training.patience is 0; it must be "auto", "none" or a whole number of at least 1.'),
    ("[training]\nclip_norm = 0", 'training.clip_norm is 0; it must be "none" or a number greater than 0.'),
    ("[training]\ncheckpoint_seconds = -1", "training.checkpoint_seconds is -1; it must be at least 0."),
    ("[training]\nmetric = 'acuracy'", 'Did you mean "accuracy"?'),
    ("[model]\ndropout = 1", 'line 2, column 11: model.dropout is 1; it must be "auto" or a number from 0 to below 1.'),
    ("[model]\nname = 'convnet'\ndropout = 1.0", "model.dropout is 1.0; it must be from 0 to below 1."),
    ("[model]\nwidths = [64, 0]", "line 2, column 15: model.widths is [64, 0] (entry 2 is 0); it must be"),
    (
        "[model]\nwidths = 64",
        'model.widths is 64; it must be "auto" or a list, each entry a whole number from 1 to 65536.',
    ),
    (
        "[model]\nactivation = 'rellu'",
        'line 2, column 14: model.activation is "rellu"; it must be "relu", "leaky_relu"',
    ),
    ("[model]\nactivation = 'rellu'", 'Did you mean "relu"?'),
    (
        "[model]\nname = 'mpl'",
        'model.name is "mpl"; it must be "mlp", "convnet", module.path:callable or "given". Did you mean "mlp"?',
    ),
    ("[model]\nname = 'a b:c'", "text of the form module.path:callable"),
    ("[model]\nname = 'mlp'\nchannels = [1]", "model.channels is not a setting of mlp; convnet has it."),
    (
        "[model]\nwidths = [1]\nchannels = [1]",
        "line 3, column 1: model.channels is not a setting of mlp; convnet has it.",
    ),
    ("[model]\nname = 'given'", "model.class_name is missing"),
    (
        "[model]\nname = 'a:b'\narguments = { when = 2020-01-01 }",
        "line 3, column 13: model.arguments: 2020-01-01 cannot be written",
    ),
    ("[model]\nname = 'a:b'\n[model.arguments]\nx = nan", "model.arguments: nan is not a finite number"),
    ("[data]\ntarget = 1", "data.target is 1; it must be text in quotes."),
    ("[data]\nignore = 'x'", 'data.ignore is "x"; it must be "auto" or a list, each entry text in quotes.'),
    ("[data]\nignore = ['a', 3]", 'line 2, column 16: data.ignore is ["a", 3] (entry 2 is 3)'),
    ("[data]\npicture_size = [32]", 'it must be "auto" or a list of 2 entries, each a whole number from 4 to 4096.'),
    (
        "[split]\ndev = 1.0",
        'split.dev is 1.0; it must be "auto", a number greater than 0 and below 1 or a whole number of at least 1.',
    ),
    ("[split]\nstratify = 1", "split.stratify is 1; it must be true or false (without quotes)."),
    ("[split]\nstratify = 'False'", "Did you mean false?"),
    ("[loss]\nlabel_smoothing = -0.1", "loss.label_smoothing is -0.1; it must be from 0 to below 1."),
    ("[device]\nthreads = 0", 'device.threads is 0; it must be "auto" or a whole number from 1 to 1024.'),
    (
        "[device]\nprecision = 'fp16'",
        'device.precision is "fp16"; it must be "float32" or "bf16". Did you mean "bf16"?',
    ),
    ("seed = -1", "line 1, column 8: seed is -1; it must be from 0 to below 9223372036854775808."),
    ("seed = 9223372036854775808", "seed is 9223372036854775808; it must be from 0"),
    ("seed = 1.0", "seed is 1.0; it must be a whole number"),
    ("seed = 2020-01-01", "seed is 2020-01-01; it must be a whole number"),
    ("version = 2", "line 1, column 11: this recipe has format version 2, written by a newer caviar"),
    ("version = '1'", "not a caviar recipe: its format version is '1'"),
    ("version = true", "its format version is True"),
    ("name = sgd", 'line 1, column 8: this is not TOML: invalid value in "name = sgd". Text must stand in quotes.'),
    ("[model", "line 1, column 7: this is not TOML"),
    ("\n\nx = [1, 2", "line 3, column 10: this is not TOML: unclosed array"),
    ("a = 1\na = 2", "line 2, column 6: this is not TOML: this key or section was already written"),
    ("[model]\n[model]", "already written"),
    ("a = 1 b = 2", "line 1, column 7: this is not TOML"),
    ('x = "\x00"', "line 1, column 6: this is not TOML"),
    ("x = " + "[" * 5000 + "]" * 5000, "nested too deeply"),
    ("x = 1" + "0" * 5000, "this is not TOML"),
]


@pytest.mark.parametrize(("text", "expected"), BAD, ids=[f"{index}" for index in range(len(BAD))])
def test_message(text: str, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        validate(parse_recipe(text, "adult.toml"))
    message = str(caught.value)
    assert message.startswith("adult.toml")
    assert expected in message
    assert not JARGON.search(message)
    assert len(message) < 600


def test_several_errors_are_all_told_in_the_order_of_the_file() -> None:
    text = "[training]\nepochs = 0\n[data]\nkind = 'tabel'\nsorce = 'x'\n[model]\nname = 'mlpp'\n"
    with pytest.raises(InputError) as caught:
        validate(merge(parse_recipe(text, "r.toml"), parse_assignment("seed=-1")))
    assert [line.split(":")[0] for line in str(caught.value).split("\n")] == [
        "r.toml, line 2, column 10",
        "r.toml, line 4, column 8",
        "r.toml, line 5, column 1",
        "r.toml, line 7, column 8",
        "--set seed=-1",
    ]


def test_of_very_many_errors_the_first_are_told() -> None:
    with pytest.raises(InputError) as caught:
        validate(parse_recipe("\n".join(f"x{index} = 1" for index in range(100)), "r.toml"))
    lines = str(caught.value).split("\n")
    assert len(lines) == 21
    assert lines[19].startswith("r.toml, line 20,")
    assert lines[20] == "... and 80 more."


def test_error_of_a_replaced_value_names_what_replaced_it() -> None:
    recipe = parse_recipe("[model]\nwidths = [64, 32]\n", "r.toml")
    with pytest.raises(InputError, match=r"^--set model\.widths=\[0\]: model\.widths is \[0\] \(entry 1 is 0\)"):
        validate(merge(recipe, parse_assignment("model.widths=[0]")))
    with pytest.raises(InputError, match=r"^--epochs 0: training\.epochs is 0; it must be"):
        validate(merge(recipe, from_dict({"training": {"epochs": 0}}, "--epochs 0")))


def test_error_elsewhere_in_the_section_still_names_the_file() -> None:
    recipe = parse_recipe("[optimizer]\nlr = 3\n", "r.toml")
    with pytest.raises(InputError, match=r"^r\.toml, line 2, column 1: optimizer\.lr"):
        validate(merge(recipe, parse_assignment("optimizer.eps=1e-6")))


@pytest.mark.parametrize("value", [None, object(), b"x", float("nan"), "\udc80", [None], {"a": None}])
def test_python_values_that_do_not_fit(value: Any) -> None:
    for section, key in [("data", "source"), ("model", "widths"), ("training", "epochs"), ("split", "stratify")]:
        with pytest.raises(InputError, match=rf"^caviar\.train\(\.\.\.\): {section}\.{key}") as caught:
            validate(from_dict({section: {key: value}}, "caviar.train(...)"))
        assert not JARGON.search(str(caught.value))


JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.dates()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)
KEYS = [
    "version",
    "seed",
    "data",
    "model",
    "optimizer",
    "training",
    "split",
    "name",
    "widths",
    "betas",
    "epochs",
    "arguments",
    "x",
]


@PATIENT
@given(
    st.dictionaries(
        st.sampled_from(KEYS), st.one_of(JUNK, st.dictionaries(st.sampled_from(KEYS), JUNK, max_size=3)), max_size=4
    )
)
def test_junk_is_refused_in_plain_words_or_accepted(values: dict[str, Any]) -> None:
    message = ""
    try:
        validate(from_dict(values, "junk"))
    except InputError as error:
        message = str(error)
    assert all(line.startswith("junk: ") for line in message.split("\n") if message)
    assert not JARGON.search(message)


def test_missing_file_offers_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "adult.toml").write_text("seed = 1\n")
    with pytest.raises(InputError, match=r"adlt\.toml: there is no such recipe file\. Did you mean '.*adult\.toml'\?"):
        read_recipe(tmp_path / "adlt.toml")
    with pytest.raises(InputError, match="There is no folder"):
        read_recipe(tmp_path / "nowhere" / "adult.toml")
    with pytest.raises(InputError, match="this is a folder, not a recipe"):
        read_recipe(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        read_recipe(tmp_path / "adult.toml" / "x.toml")
    with pytest.raises(InputError, match="not a file name"):
        read_recipe("a\0b")


def test_bytes_that_are_not_utf8_are_placed(tmp_path: Path) -> None:
    path = tmp_path / "latin.toml"
    path.write_bytes("seed = 1\n[data]\ntarget = 'é'\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin\.toml, line 3, column 11: byte 0xe9 is not UTF-8"):
        read_recipe(path)


def test_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "windows.toml"
    path.write_bytes(b"\xef\xbb\xbf[data]\r\ntarget = 'x'\r\nkind = 3\r\n")
    sparse = read_recipe(path)
    assert sparse.values["data"]["target"] == "x"
    with pytest.raises(InputError, match=r"windows\.toml, line 3, column 8: data\.kind is 3"):
        validate(sparse)


def test_a_large_file_is_no_recipe(tmp_path: Path) -> None:
    path = tmp_path / "big.toml"
    path.write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(InputError, match="larger than 1 MiB, so not a recipe"):
        read_recipe(path)
