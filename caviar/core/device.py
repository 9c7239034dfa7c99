"""Which device and number type a run computes with."""

import re

import torch

from caviar.core.device_settings import DeviceSettings as DeviceSettings
from caviar.core.errors import InputError, unknown_name

DEVICE_TYPES = ("cpu", "cuda", "mps")


def resolve_device(name: str) -> torch.device:
    """Turn a device's name into a device that exists here; "auto" takes the first of cuda, mps, cpu."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if name not in DEVICE_TYPES and not re.fullmatch(r"cuda:[0-9]{1,3}", name):
        raise unknown_name("device", name, ["auto", *DEVICE_TYPES, "cuda:0"])
    kind, _, index = name.partition(":")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(index or 0) >= count:
            raise InputError(f"device {name!r} is absent: CUDA devices found here: {count}. Use --device cpu, or auto.")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise InputError("device 'mps' is absent on this machine. Use --device cpu, or auto.")
    return torch.device(name)
