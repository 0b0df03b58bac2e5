"""Converts one model directory to MLX, in a process of its own: run as ``python -m quince.models.convert_worker``.

Standard input carries one Conversion as a line of JSON and then stays open: when it ends, the parent is gone, and so is
the converter. The exit code is 0, or 1 with the reason as the last line on stderr.
This is the only file outside the processes of a loaded model that imports mlx_lm or mlx_vlm.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings
from typing import Any

import msgspec

from quince.models.convert import Conversion
from quince.pytorch import hide_pytorch


def main() -> None:
    conversion = msgspec.json.decode(sys.stdin.buffer.readline(), type=Conversion)
    threading.Thread(target=_exit_with_parent, name="parent-watch", daemon=True).start()
    os.environ["HF_HUB_OFFLINE"] = "1"  # everything is in the directory; a lookup would be a mistake
    hide_pytorch()
    warnings.simplefilter("ignore")
    try:
        _convert(conversion)
    except Exception as error:  # noqa: BLE001 - the boundary: whatever the model's files make the converter raise
        reason = " ".join(str(error).split()) or type(error).__name__
        print(reason, file=sys.stderr)  # noqa: T201 - the parent reads it
        sys.exit(1)


def _exit_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(1)


def _convert(conversion: Conversion) -> None:
    options: dict[str, Any] = {}
    if conversion.bits is not None:
        options = {"quantize": True, "q_bits": conversion.bits, "q_group_size": conversion.group_size}
    if conversion.vision:
        import mlx_vlm

        mlx_vlm.convert(conversion.source, conversion.target, trust_remote_code=False, **options)
    else:
        import mlx_lm

        mlx_lm.convert(conversion.source, conversion.target, **options)


if __name__ == "__main__":
    main()
