"""Real processes: the launcher, and kill -9 in the middle with going on to the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
CLI = [sys.executable, str(ROOT / "cli.py")]


def start(*args: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*CLI, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )


@pytest.mark.process
def test_the_launcher_speaks_and_stays_out_of_the_way() -> None:
    started = time.monotonic()
    process = start("grid", "--help")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "--wd" in out
    assert "Example" in out
    assert time.monotonic() - started < 30  # a hang, not a benchmark


@pytest.mark.process
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_output_that_nobody_can_take_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        found = subprocess.run([*CLI, "--help"], check=False, stdout=full, stderr=-1, text=True, cwd=ROOT)
    assert found.returncode == 1
    assert found.stderr == "lungfast: standard output: No space left on device\n"


@pytest.mark.process
def test_a_terminal_without_utf8_is_spoken_to() -> None:
    latin = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    found = subprocess.run([*CLI, "--help"], check=False, capture_output=True, env=latin, cwd=ROOT)
    assert found.returncode == 0, found.stderr
    assert rb"compressed" in found.stdout
    assert rb"\u2026" in found.stdout


@pytest.mark.process
def test_a_killed_run_goes_on_to_the_same_bytes(nano_cache: str, tmp_path: Path) -> None:
    """One decoder at a time (a small --memory): the kill falls between the first and the last of them."""
    args = ["grid", nano_cache, "--lr", "1e-4,1e-3,1e-2", "--wd", "0", "--epochs", "2", "--folds", "3",
            "--memory", "1100MB", "--precision", "fp32", "--compile", "off"]  # fmt: skip
    whole = start(*args, "-o", tmp_path / "whole")
    _, err = whole.communicate(timeout=300)
    assert whole.returncode == 0, err

    killed = start(*args, "-o", tmp_path / "cut")
    first = tmp_path / "cut" / "decoders"
    deadline = time.monotonic() + 300
    while not (first.exists() and any(first.glob("*.safetensors"))):
        assert time.monotonic() < deadline
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not (tmp_path / "cut" / "results.json").exists()

    resumed = start(*args, "-o", tmp_path / "cut", "--resume")
    _, err = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, err
    for path in sorted((tmp_path / "whole").rglob("*")):
        if path.is_file() and path.name not in {".lock", "chosen.json", "pace.json"}:
            other = tmp_path / "cut" / path.relative_to(tmp_path / "whole")
            assert path.read_bytes() == other.read_bytes(), path
