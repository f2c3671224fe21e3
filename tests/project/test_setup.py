"""`make .venv/installed` away from all registries, with small packages in the place of PyTorch and vLLM."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.paths import ROOT

NOBODY = "http://127.0.0.1:9"
"""An index that refuses connections: port 9 is that of the discard service, which no test has."""
UNUSED = ("torchvision", "torchaudio", "torchcodec", "triton", "wavedrom")


def write_wheel(folder: Path, name: str, *required: str) -> None:
    """A package of one module that needs others."""
    record = f"{name}-1.0.dist-info"
    needs = "".join(f"Requires-Dist: {one}\n" for one in required)
    files = {
        f"{name}.py": "",
        f"{record}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{needs}",
        f"{record}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{record}/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{record}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        for file, text in files.items():
            wheel.writestr(file, text)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with this Makefile, an environment, and requirements of one package that needs what CPUs do not."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements-cpu.txt").write_text("tinyvllm\n")
    (tmp_path / "wheels").mkdir()
    write_wheel(
        tmp_path / "wheels",
        "tinyvllm",
        "torchvision",
        "torchaudio",
        "torchcodec>=0.14",
        "triton",
        "wavedrom",
    )
    subprocess.run([sys.executable, "-m", "venv", tmp_path / ".venv"], check=True, timeout=120)
    return tmp_path


def make(checkout: Path, *variables: str) -> subprocess.CompletedProcess[str]:
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "MAKE"))
    }
    command = [
        "make",
        ".venv/installed",
        "REQUIREMENTS=requirements-cpu.txt",
        "TORCH_CPU=tinytorch==1.0",
    ]
    return subprocess.run(
        [*command, *variables],
        cwd=checkout,
        env={
            **inherited,
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": NOBODY,
            "PIP_RETRIES": "0",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def installed(checkout: Path) -> set[str]:
    listed = [str(checkout / ".venv/bin/python"), "-m", "pip", "list", "--format=freeze"]
    lines = subprocess.run(listed, capture_output=True, text=True, timeout=60, check=True).stdout
    return {line.split("==")[0] for line in lines.splitlines()}


def test_an_index_out_of_reach_is_named_in_one_line_and_asked_twice(checkout: Path) -> None:
    made = make(checkout, f"TORCH_CPU_INDEX={NOBODY}")
    assert made.returncode == 2
    (line,) = (line for line in made.stdout.splitlines() if line.startswith("Waiting for "))
    assert line.startswith(f"Waiting for tinytorch==1.0 (190 MB) from {NOBODY}. ")
    assert "PIP_FIND_LINKS=FOLDER" in line
    assert made.stderr.count("WARNING: Retrying") == 1
    assert not (checkout / ".venv/installed").exists()


def test_a_wheel_on_disk_needs_no_index_and_what_a_cpu_has_no_use_for_is_left_out(
    checkout: Path,
) -> None:
    write_wheel(checkout / "wheels", "tinytorch")
    made = make(checkout, f"TORCH_CPU_INDEX={NOBODY}", f"PIP_FIND_LINKS={checkout / 'wheels'}")
    assert made.returncode == 0, made.stderr
    assert "Waiting for" not in made.stdout
    packages = installed(checkout)
    assert {"tinytorch", "tinyvllm"} <= packages
    assert not packages & {*UNUSED}
    for name in UNUSED:
        assert not [*checkout.glob(f".venv/lib/python3*/site-packages/{name}*")]
    assert "is up to date" in make(checkout).stdout
