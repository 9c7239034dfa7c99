"""What a recipe says about the machine: the section [device]. Apart from device.py, so that a recipe needs no torch."""

from typing import Annotated, Literal

from pydantic import Field

from caviar.core.settings import Auto, Settings


class DeviceSettings(Settings):
    """Where the run computes."""

    name: str = "auto"
    """auto, cpu, cuda, cuda:1, or mps"""
    threads: Annotated[int, Field(ge=1, le=1024)] | Auto = "auto"
    """CPU threads inside one operation, the same for the same result; auto: all, but 1 where a step is too small"""
    precision: Literal["float32", "bf16"] = "float32"
    """float32, or bf16: products in bfloat16 by autocast, weights and updates in float32"""
    compile: bool = False
    """compile the network with torch.compile: tens of seconds at the start, for long runs"""
