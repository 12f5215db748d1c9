"""The processor, the memory, and what torch finds beside them."""

from __future__ import annotations

import os
import platform

import torch

from certmix.formatting import lower
from certmix.installation.finding import Finding

LITTLE = 2 * 2**30  # bytes


def findings() -> list[Finding]:
    """System, cores, memory, devices."""
    cores, threads = len(os.sched_getaffinity(0)), torch.get_num_threads()
    found = [
        Finding("system", "ok", f"{platform.system()} {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"),
        Finding("cores", "ok", f"{cores}; torch alone would take {threads} threads, certmix takes --threads of them"),
        _memory(),
    ]
    if not torch.cuda.is_available():
        words = "torch finds no CUDA device; everything runs on the processor"
        built = "this torch is built without CUDA" if torch.version.cuda is None else "CUDA's driver is not usable"
        return [*found, Finding("device", "note", words, f"{built}; the processor will do")]
    devices = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
    words = ", ".join(f"cuda:{n} {d.name}, {lower(d.total_memory / 2**30, 3)} GiB" for n, d in enumerate(devices))
    return [*found, Finding("device", "ok", words)]


def _memory() -> Finding:
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    words = f"{lower(free / 2**30, 3)} GiB free"
    if free < LITTLE:
        return Finding("memory", "note", words, "take a smaller --batch-size, and --jobs 1")
    return Finding("memory", "ok", words)
