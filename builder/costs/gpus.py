"""GPU types with the three figures that decide what a row costs, and which of them this machine has.

Memory in GB (1e9 bytes), arithmetic in 1e12 dense operations a second in bfloat16 with float32 accumulation (float16
where the type has no bfloat16), bandwidth of its memory in 1e12 bytes a second. All from NVIDIA's data sheets and
architecture papers, without the factor of two for sparsity: Blackwell B200 (HGX), Hopper H200, H100 SXM, H100 PCIe,
Ampere A100 SXM (40 and 80 GB), A10G (AWS's variant: 70 of the A10's 125), RTX A6000, RTX 3090, Ada L4, L40S, RTX 4090,
Volta V100 SXM2 (16 and 32 GB), Turing T4.
"""

import re
import shutil
import subprocess
from dataclasses import dataclass

from cyclepref.schemas.errors import CyclePrefError
from cyclepref.schemas.nearest import did_you_mean

ASKING_S = 20


class UnknownGpu(CyclePrefError, ValueError):
    """A type of GPU whose figures are not known."""


@dataclass(frozen=True)
class Gpu:
    """A type of GPU: memory in GB, 1e12 operations a second in half precision, 1e12 bytes a second of its memory."""

    name: str
    memory_gb: float
    tflops: float
    tbytes: float
    bfloat16: bool = True


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("B200", 180, 2250, 7.7),
        Gpu("H200", 141, 989, 4.8),
        Gpu("H100", 80, 989, 3.35),
        Gpu("H100-PCIe", 80, 756, 2.0),
        Gpu("A100-80G", 80, 312, 2.04),
        Gpu("A100-40G", 40, 312, 1.56),
        Gpu("L40S", 48, 362, 0.864),
        Gpu("A6000", 48, 155, 0.768),
        Gpu("A10G", 24, 70, 0.6),
        Gpu("L4", 24, 121, 0.3),
        Gpu("RTX-4090", 24, 165, 1.008),
        Gpu("RTX-3090", 24, 71, 0.936),
        Gpu("V100-32G", 32, 125, 0.9, bfloat16=False),
        Gpu("V100-16G", 16, 125, 0.9, bfloat16=False),
        Gpu("T4", 16, 65, 0.32, bfloat16=False),
    )
}


def gpu_named(name: str) -> Gpu:
    """The GPU of a type's name, or of the name that its driver or Ray gives it ("NVIDIA H100 80GB HBM3", "A100").

    Raises:
        UnknownGpu: if it is none of GPUS.
    """
    if name in GPUS:
        return GPUS[name]
    found = _of_driver(name)
    if found is None:
        hint = did_you_mean(name, GPUS)
        raise UnknownGpu(f"unknown GPU type {name!r}{hint}: its figures are known for {', '.join(GPUS)}")
    return GPUS[found]


def _of_driver(name: str) -> str | None:
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
    if "h100" in words:
        return "H100-PCIe" if "pcie" in words else "H100"
    for family, large, small in (("a100", "A100-80G", "A100-40G"), ("v100", "V100-32G", "V100-16G")):
        if family in words:
            # Ray and older drivers may not say how large it is: the smaller one is the safe answer.
            return large if {"80gb", "80g", "32gb", "32g"} & set(words) else small
    if "rtx" in words:
        words += [f"rtx-{word}" for word in words]
    known = {gpu.lower(): gpu for gpu in GPUS}
    return next((known[word] for word in words if word in known), None)


@dataclass(frozen=True)
class Card:
    """A GPU of this machine: the name that its driver gives it, and its memory in GB."""

    name: str
    memory_gb: float

    @property
    def gpu(self) -> Gpu | None:
        """Its type's figures, if they are known."""
        found = _of_driver(self.name)
        return GPUS[found] if found else None


def cards_here() -> list[Card]:
    """The GPUs of this machine as its driver lists them; none where there is no driver, or it does not answer."""
    if not (command := shutil.which("nvidia-smi")):
        return []
    asked = [command, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, timeout=ASKING_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []  # a driver that is installed on a machine without a GPU
    lines = [line.rpartition(",") for line in told.splitlines() if "," in line]
    return [Card(name.strip(), round(float(mib) * 2**20 / 1e9, 1)) for name, _, mib in lines if _number(mib)]


def _number(text: str) -> bool:
    return text.strip().replace(".", "", 1).isdecimal()
