"""An executable's machine code in the memory of a device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attnc.backends.cuda.device import MAX_DYNAMIC_SHARED, Gpu, current
from attnc.backends.cuda.executable import Executable, Stage
from attnc.dsl.place import here
from attnc.errors import DeviceError

PLAIN_SHARED = 48 * 1024  # more dynamic shared memory must be asked for, once per kernel


@dataclass(frozen=True, slots=True)
class Loaded:
    """An executable on a device. functions: addresses of its kernels, stage by stage. modules: keep them loaded."""

    executable: Executable
    gpu: Gpu
    functions: tuple[int, ...]
    modules: tuple[Any, ...]


def load(executable: Executable, gpu: Gpu) -> Loaded:
    """Load every stage. DeviceError: another architecture, too little shared memory, or the driver refuses the code."""
    target = executable.target
    if not target.runs_on(gpu.capability):
        major, minor = gpu.capability
        raise DeviceError(
            f"kernels for {target.name} on device {gpu.number}",
            where=here(),
            cause=f"its compute capability is {major}.{minor}, which does not run code of {target.name}",
            cure=f"compile for sm_{major}{minor}, or use another device",
        )
    with current(gpu):
        modules, functions = zip(*(_load(stage, gpu) for stage in executable.stages), strict=True)
    return Loaded(executable, gpu, functions, modules)


def _load(stage: Stage, gpu: Gpu) -> tuple[Any, int]:
    """The module of a stage, and the address of its kernel."""
    if stage.shared_bytes > gpu.shared:
        raise DeviceError(
            f"out of shared memory on device {gpu.number}",
            where=here(),
            cause=f"a block of the kernel {stage.role!r} needs {stage.shared_bytes} bytes, a block has {gpu.shared}",
            cure="use a smaller head dim, fewer attentions in one function, another device, or the CPU",
        )
    driver = gpu.api.cuda.driver
    module = gpu.api.cuda.function.Module()
    try:
        module.load(stage.code)
        function: int = module.get_function(stage.entry).ptr
        if stage.shared_bytes > PLAIN_SHARED:
            driver.funcSetAttribute(function, MAX_DYNAMIC_SHARED, stage.shared_bytes)
    except driver.CUDADriverError as error:
        raise DeviceError(
            f"device {gpu.number} cannot load the kernel {stage.role!r}",
            where=here(),
            cause=f"the driver refuses its code: {error}",
            cure="update NVIDIA's driver; if the kernel comes from a directory, build it again",
        ) from error
    return module, function
