"""Where the network runs and in which number format."""

from __future__ import annotations

import logging
import os

import torch

from vggt_ros.core.config import ModelConfig
from vggt_ros.core.errors import ConfigError

log = logging.getLogger(__name__)

NO_MEMORY = ('out of memory', "can't allocate memory")  # how CUDA, and the allocator of the CPU, say it
PRECISIONS = {'bf16': torch.bfloat16, 'fp16': torch.float16, 'fp32': torch.float32}


def resolve_device(config: ModelConfig) -> torch.device:
    """The device that config.device names.

    Raises:
        ConfigError: no such device here; says why and what to do. Only 'auto' falls back to the CPU; see warn_if_slow.
    """
    if config.device == 'auto':
        return torch.device('cpu') if _why_no_cuda(0) else torch.device('cuda', 0)
    if config.device == 'cpu':
        return torch.device('cpu')
    name, _, number = config.device.partition(':')
    if name != 'cuda' or (number and not number.isdecimal()) or config.device.endswith(':'):
        raise ConfigError(f'device must be auto, cpu, cuda or cuda:N, got {config.device!r}')
    index = int(number or 0)
    reason = _why_no_cuda(index)
    if reason is not None:
        raise ConfigError(f'device {config.device} cannot be used: {reason}; or set device to cpu, or to auto')
    return torch.device('cuda', index)


def warn_if_slow(config: ModelConfig, device: torch.device) -> None:
    """Say so, with the reason, where 'auto' had to take the CPU."""
    if config.device == 'auto' and device.type == 'cpu':
        log.warning('running on the CPU, which is slow: %s; set device to cpu if that is meant', _why_no_cuda(0))


def resolve_precision(config: ModelConfig, device: torch.device) -> torch.dtype:
    """The format that config.precision names; auto is the best half format that the device multiplies natively.

    On a CPU that is bfloat16 where the processor has it, else float32 (docs/benchmarks.md: what it gains and costs).
    """
    if config.precision != 'auto':
        return PRECISIONS[config.precision]
    if device.type == 'cpu':
        return torch.bfloat16 if has_bfloat16() else torch.float32
    # before Ampere (compute capability 8) bfloat16 is emulated
    return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16


def explain_precision(dtype: torch.dtype, device: torch.device) -> str:
    """The number format and, in brackets, why 'auto' takes it there."""
    name = next(name for name, one in PRECISIONS.items() if one is dtype)
    if device.type == 'cpu':
        return f'{name} (the processor {"multiplies" if has_bfloat16() else "does not multiply"} bfloat16)'
    return f'{name} (compute capability {".".join(map(str, torch.cuda.get_device_capability(device)))})'


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 matrices itself; where it emulates them float32 is faster."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, 'get_capabilities') else {}
    return any(capabilities.get(name, False) for name in ('avx512_bf16', 'amx_bf16'))


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether the network failed because the device has too little memory free."""
    return any(words in str(error) for words in NO_MEMORY)


def available_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def _why_no_cuda(index: int) -> str | None:
    """The reason why a GPU cannot be used and the way out; None where it can."""
    if torch.version.cuda is None:
        return 'this torch is built without CUDA; install one with it from https://pytorch.org/get-started/locally'
    if not torch.cuda.is_available():
        return 'torch finds no GPU that its driver serves; see whether nvidia-smi lists one'
    if index >= torch.cuda.device_count():
        return f'torch finds {torch.cuda.device_count()} GPU, counted from 0'
    return None
