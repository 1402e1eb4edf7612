"""Files out of the page cache, and the bytes that then come from the disk (Linux; no rights needed)."""

from __future__ import annotations

import os
import re
from pathlib import Path


def drop_pages(folder: Path) -> None:
    """Every file below ``folder`` leaves the page cache; its bytes must be on the disk already (sync)."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def bytes_from_disk() -> int:
    """What the kernel has read for this process from block devices, so far."""
    found = re.search(r"^read_bytes: (\d+)", Path("/proc/self/io").read_text(), re.MULTILINE)
    return int(found.group(1)) if found else 0
