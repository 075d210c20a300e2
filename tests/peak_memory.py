"""The most memory that a process has held; its programs find this module in PYTHONPATH."""

import contextlib
import resource
import sys
from pathlib import Path


def peak():
    """Return the most memory that this process has held, in bytes."""
    with contextlib.suppress(OSError):  # getrusage would count the parent's before exec
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def forget_peak():
    """Let the peak begin anew, which Linux alone can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
