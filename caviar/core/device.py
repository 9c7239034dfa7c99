"""Which device and number type a run computes with."""

from typing import Annotated, Literal

import torch
from pydantic import Field

from caviar.core.errors import InputError, unknown_name
from caviar.core.settings import Auto, Settings

DEVICE_TYPES = ("cpu", "cuda", "mps")


class DeviceSettings(Settings):
    """Where the run computes."""

    name: str = "auto"
    """auto, cpu, cuda, cuda:1, or mps"""
    threads: Annotated[int, Field(ge=1, le=1024)] | Auto = "auto"
    """CPU threads inside one operation; results are repeatable for the same number only"""
    precision: Literal["float32", "bf16"] = "float32"
    """float32, or bf16: products in bfloat16 by autocast, weights and updates in float32"""
    compile: bool = False
    """compile the network with torch.compile: tens of seconds at the start, for long runs"""


def resolve_device(name: str) -> torch.device:
    """Turn a device's name into a device that exists here; "auto" takes the first of cuda, mps, cpu."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in DEVICE_TYPES or (index and not index.isdigit()):
        raise unknown_name("device", name, ["auto", *DEVICE_TYPES, "cuda:0"])
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(index or 0) >= count:
            raise InputError(f"device {name!r} is absent: this machine has {count} CUDA devices. Use --device cpu, or auto.")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise InputError("device 'mps' is absent on this machine. Use --device cpu, or auto.")
    return torch.device(name)
