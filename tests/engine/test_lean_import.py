"""What an engine process imports of mlx-lm: here in processes of their own, as the import is once and for all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

IMPORT = """
import importlib, sys
from quince.engine.lean_import import import_loader
import_loader()
"""
# A package that looks like mlx-lm; {loader} is the loader's code.
SOURCES = {
    "mlx_lm/__init__.py": "whole = True\n",
    "mlx_lm/tokenizer_utils.py": "class TokenizerWrapper:\n    pass\n",
}


def run(code: str, *, path: Path | None = None) -> str:
    environment = {**os.environ, "PYTHONPATH": str(path)} if path is not None else None
    done = subprocess.run([sys.executable, "-c", IMPORT + code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def fake(path: Path, loader: str) -> Path:
    (path / "mlx_lm").mkdir()
    for name, source in {**SOURCES, "mlx_lm/utils.py": loader}.items():
        (path / name).write_text(source)
    return path


def test_the_loader_is_imported_without_what_tokenizes_and_downloads() -> None:
    found = run("import quince.engine.loader; print('mlx_lm.utils' in sys.modules, *sorted(sys.modules))").split()
    assert found[0] == "True"
    absent = ("transformers", "huggingface_hub", "mlx_lm.generate", "mlx_lm.tokenizer_utils")
    assert not [name for name in found for other in absent if name == other or name.startswith(f"{other}.")]


def test_what_was_absent_can_be_imported_afterwards() -> None:
    code = """
    import mlx_lm.tokenizer_utils, huggingface_hub, mlx_lm.tuner.lora
    print(mlx_lm.tokenizer_utils.TokenizerWrapper.__module__, huggingface_hub.__version__[0].isdigit())
    """
    assert run("if True:" + code) == "mlx_lm.tokenizer_utils True"


def test_the_absent_is_no_silent_nothing() -> None:
    """A function of the loader that does need a tokenizer says so."""
    code = """
    from mlx_lm.utils import load_tokenizer
    try:
        load_tokenizer("/nowhere")
    except RuntimeError as error:
        print(error)
    """
    assert run("if True:" + code) == "an engine process has no tokenizers and downloads nothing"


@pytest.mark.parametrize(
    "needs",
    [
        "from .tokenizer_utils import TokenizerWrapper\nTokenizerWrapper()",
        "import huggingface_hub\nhuggingface_hub.__version__",
        "from huggingface_hub.utils import are_progress_bars_disabled",
        "import sys\nif 'mlx_lm.tokenizer_utils' in sys.modules and not hasattr(sys.modules['mlx_lm'], 'whole'):\n"
        "    raise ValueError('for whatever reason')",
    ],
)
def test_a_loader_that_needs_more_than_names_is_imported_whole(needs: str, tmp_path: Path) -> None:
    code = "import mlx_lm, mlx_lm.utils; print(mlx_lm.whole, mlx_lm.utils.loaded)"
    assert run(code, path=fake(tmp_path, f"{needs}\nloaded = 'yes'\n")) == "True yes"


def test_a_loader_that_needs_names_alone_is_not(tmp_path: Path) -> None:
    loader = "from .tokenizer_utils import TokenizerWrapper\nclass Mine(TokenizerWrapper):\n    pass\n"
    code = "import mlx_lm, mlx_lm.utils; print(hasattr(mlx_lm, 'whole'), mlx_lm.utils.Mine.__name__)"
    assert run(code, path=fake(tmp_path, loader)) == "False Mine"


def test_what_is_imported_already_stays() -> None:
    code = "print(package is sys.modules['mlx_lm'], 'transformers' in sys.modules)"
    environment = "import sys, mlx_lm; package = mlx_lm\n"
    done = subprocess.run([sys.executable, "-c", environment + IMPORT + code], capture_output=True, text=True)
    assert done.stdout.strip() == "True True", done.stderr
