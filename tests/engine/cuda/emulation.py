"""The kernels' sources, compiled for a CPU (emulated_*.cpp)."""

from __future__ import annotations

import subprocess
from pathlib import Path

from quince.engine.cuda import kernel

HALF_ULP = 2**-8  # of numbers between 1 and 2 in bfloat16


def emulated_errors(name: str, directory: Path, **constants: int) -> list[float]:
    """The largest error of each case that emulated_NAME.cpp has for NAME.cu, in each order of what happens at once.
    ``constants``: of NAME.py, which it checks."""
    sources = [
        Path(kernel.__file__).with_name(file).read_text(encoding="utf-8") for file in ("common.cu", f"{name}.cu")
    ]
    header, program = directory / "kernel.h", directory / "emulated"
    header.write_text("\n".join(sources).replace("#include <cuda", "// "), encoding="utf-8")
    options = ["-std=c++20", "-O1", "-Wno-unknown-pragmas", f'-DKERNEL="{header}"']
    options += [f"-D{constant}_THERE={value}" for constant, value in constants.items()]
    emulated = Path(__file__).with_name(f"emulated_{name}.cpp")
    subprocess.run(["g++", *options, str(emulated), "-o", str(program)], check=True, timeout=300)
    printed = subprocess.run([str(program)], check=True, capture_output=True, text=True, timeout=300).stdout.split()
    return [float(error) for error in printed]
