"""The wheel holds lungfast and nothing else, and works outside the checkout."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    source = tmp_path_factory.mktemp("source") / "lungfast"
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for name in files:  # a copy: a build leaves folders behind
        if (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(out),
        ".",
    ]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (found,) = out.glob("*.whl")
    return found


@pytest.mark.process
def test_the_wheel_holds_the_package_alone(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"lungfast", f"{wheel.name.rsplit('-', 3)[0]}.dist-info"}
    data = (
        "py.typed",
        "frozen/MODEL_CARD.md",
        "frozen/nano.safetensors",
        "report/report.css",
        "report/report.html.j2",
        "report/report.js",
    )
    assert {f"lungfast/{name}" for name in data} <= set(names)
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "lungfast").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == sources
    (entry,) = [name for name in names if name.endswith("entry_points.txt")]
    assert "lungfast = lungfast.commands:main" in zipfile.ZipFile(wheel).read(entry).decode()


@pytest.mark.process
def test_the_wheel_goes_from_nothing_to_a_page(wheel: Path, tmp_path: Path) -> None:
    """Weights, kernels and the page's parts are there; `lungfast demo` in full is where .ci/run begins."""
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    commands = [
        "phantom -o phantoms --montgomery 6 --shenzhen 0 --size 128",
        "embed montgomery phantoms -o m.zarr",
        "baseline m.zarr --prompt points -o run",
        "report run",
    ]
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-c", "from lungfast.commands import main; main()", *command.split()],
            cwd=tmp_path,
            env={"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "zero-shot" in page
