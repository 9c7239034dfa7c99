"""Networks built by a user's own Python code. Callers come here only after --allow-code."""

import importlib
import os
import pkgutil
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from torch import nn

from caviar.core.errors import InputError, nearest, unknown_name


def load_callable(name: str, arguments: Mapping[str, Any], generator: torch.Generator | None = None) -> nn.Module:
    """Import "module.path:callable", call it with `arguments` and return the nn.Module that it builds.

    The current folder is searched too, after everything that is installed. With `generator`, torch's global generator
    is seeded from it during the call and put back afterwards, so that the initial weights follow the run's seed.
    """
    with torch.random.fork_rng(devices=[], enabled=generator is not None):
        return _build(name, arguments, generator)


def _build(name: str, arguments: Mapping[str, Any], generator: torch.Generator | None) -> nn.Module:
    module_path, _, attribute = name.partition(":")
    module = _import(name, module_path)
    if not hasattr(module, attribute):
        options = [option for option, value in vars(module).items() if callable(value) and not option.startswith("_")]
        if options:
            raise unknown_name(f"callable in module {module_path!r}:", attribute, options)
        raise InputError(f"model {name!r}: module {module_path!r} has no {attribute!r}, nor any other public callable.")
    builder = getattr(module, attribute)
    if isinstance(builder, nn.Module) or not callable(builder):
        raise InputError(
            f"model {name!r} is a {type(builder).__name__}, not something to call. Name a class or a function that "
            "builds and returns the nn.Module."
        )
    model = _call(name, builder, arguments, generator)
    if not isinstance(model, nn.Module):
        raise InputError(f"model {name!r} returned a {type(model).__name__}; it must return a torch.nn.Module.")
    return model


def _import(name: str, module_path: str) -> ModuleType:
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.append(folder)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(module_path)
    except ModuleNotFoundError as error:
        raise InputError(f"model {name!r}: {_missing(module_path, error.name or str(error), folder)}") from error
    except (Exception, SystemExit) as error:
        raise InputError(f"model {name!r}: importing {module_path!r} raised {_words(error)}.") from error


def _missing(module_path: str, missing: str, folder: str) -> str:
    if not f"{module_path}.".startswith(f"{missing}."):
        return f"module {module_path!r} imports {missing!r}, which is not installed here."
    near = nearest(missing, _siblings(missing))
    hint = f" Did you mean {near!r}?" if near else ""
    return (
        f"there is no module {missing!r}.{hint} Modules are looked for where Python is installed, on PYTHONPATH, "
        f"and in the current folder {folder}."
    )


def _siblings(module_path: str) -> list[str]:
    parent, _, _ = module_path.rpartition(".")
    folders = getattr(sys.modules.get(parent), "__path__", []) if parent else [os.getcwd()]
    return [f"{parent}.{found.name}" if parent else found.name for found in pkgutil.iter_modules(folders)]


def _call(name: str, builder: Any, arguments: Mapping[str, Any], generator: torch.Generator | None) -> Any:
    if generator is not None:
        torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
    try:
        return builder(**arguments)
    except (Exception, SystemExit) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise InputError(f"model {name!r} called with ({given}) raised {_words(error)}.") from error


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(". ")
