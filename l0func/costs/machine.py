"""The place where times were measured: processor, device, torch, threads, dtype and inputs."""

from __future__ import annotations

import platform
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import torch


@dataclass(frozen=True)
class Machine:
    """The conditions of a measurement in milliseconds, beside the network.

    Attributes:
        processor: The processor's name.
        device: ``"cpu"``, or the name of the GPU.
        torch: torch's version.
        threads: The number of torch's threads; 0 on a GPU.
        dtype: The parameters' dtype.
        inputs: The shapes of the inputs.
    """

    processor: str
    device: str
    torch: str
    threads: int
    dtype: str
    inputs: str

    @staticmethod
    def here(device: torch.device, dtype: str, inputs: str) -> Machine:
        """This machine, with a network on one of its devices."""
        is_gpu = device.type == "cuda"
        name = torch.cuda.get_device_name(device) if is_gpu else device.type
        threads = 0 if is_gpu else torch.get_num_threads()
        return Machine(_processor(), name, torch.__version__, threads, dtype, inputs)

    def now(self) -> Machine:
        """This process, with a network on the same kind of device if there is one."""
        is_gpu = self.device != "cpu" and torch.cuda.is_available()
        return Machine.here(torch.device("cuda" if is_gpu else "cpu"), self.dtype, self.inputs)

    def differences(self, other: Machine) -> str:
        """What differs, for a message; empty if nothing does."""
        theirs = asdict(other)
        found: list[str] = []
        for name, value in asdict(self).items():
            if value != theirs[name]:
                found.append(f"{name} {value!r} there, {theirs[name]!r} here")
        return "; ".join(found)


@cache
def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, colon, value = line.partition(":")
            if colon and name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
