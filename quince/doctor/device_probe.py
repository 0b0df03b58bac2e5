"""Tries MLX and tells what it finds: run as ``python -m quince.doctor.device_probe``, since it may crash.

Prints a DeviceReport as JSON on standard output, and nothing if MLX is not there or does not work: then the exit code
or the last line of stderr says why.
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec

from quince.doctor.accelerator import DeviceReport


def main() -> None:
    import mlx.core as mx

    a = mx.ones((64, 64))
    if float((a @ a).sum()) != 64.0**3:
        sys.exit("MLX multiplies wrongly on this device")
    info: dict[str, Any] = mx.device_info()
    report = DeviceReport(
        version=str(getattr(mx, "__version__", "unknown")),
        device=str(mx.default_device()),
        name=str(info.get("device_name", "")),
        metal=mx.metal.is_available(),
        gpu=mx.default_device().type == mx.gpu,
        recommended_bytes=int(info.get("max_recommended_working_set_size", 0)),
    )
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n")


if __name__ == "__main__":
    main()
