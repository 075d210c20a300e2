"""Options with which XLA compiles for a CPU in half the time, for programs that run for moments.

They go with `JAX_DISABLE_MOST_OPTIMIZATIONS`, which conftest.py sets.
"""

import jax

OPTIONS = {"xla_cpu_parallel_codegen_split_count": 1}
if jax.__version_info__ < (0, 11):  # later XLA has no other emitters
    OPTIONS["xla_cpu_use_fusion_emitters"] = False


def xla_flags(devices=1):
    """Return `XLA_FLAGS` for another process, where the CPU is so many devices."""
    options = OPTIONS | {"xla_force_host_platform_device_count": devices}
    return " ".join(f"--{name}={str(value).lower()}" for name, value in options.items())
