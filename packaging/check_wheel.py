"""Installs a wheel into a bare environment outside the repository and chats with the model in it.

``python packaging/check_wheel.py dist/quince-*.whl [--extra cpu]`` downloads what the wheel needs. With ``--offline``
the libraries are those of the Python that runs this, and only Quince itself comes from the wheel.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
import zipfile
from pathlib import Path

QUESTION, ANSWER = "What is the capital of France?", "The capital of France is Paris."
REPOSITORY = Path(__file__).parents[1]


def check_contents(wheel: Path) -> None:
    """All of the package, its data and the embedded models, and nothing else."""
    names = zipfile.ZipFile(wheel).namelist()
    files = [
        path for path in (REPOSITORY / "quince").rglob("*") if path.is_file() and path.parent.name != "__pycache__"
    ]
    missing = sorted({str(path.relative_to(REPOSITORY)) for path in files} - set(names))
    metadata = f"{'-'.join(wheel.name.split('-')[:2])}.dist-info"
    foreign = sorted({name.partition("/")[0] for name in names} - {"quince", metadata})
    if missing or foreign:
        sys.exit(f"{wheel.name}: missing {missing}, and what does not belong there: {foreign}")
    print(f"{wheel.name}: {len(names)} files, {wheel.stat().st_size / 1e6:.1f} MB")


def install(wheel: Path, target: Path, extra: str | None) -> Path:
    """Make the environment; ``extra`` None: with this Python's libraries. Returns its ``bin`` directory."""
    venv.create(target, with_pip=True)
    pip = [target / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if extra is None:
        # A directory that is named in a .pth file is searched, but its own .pth files (the repository's) are not read.
        packages = subprocess.check_output(
            [target / "bin" / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
        )
        (Path(packages.strip()) / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
        subprocess.run([*pip, "--no-deps", "--no-index", "--ignore-installed", wheel], check=True)
    else:
        subprocess.run([*pip, f"{wheel}[{extra}]" if extra else wheel], check=True)
    return target / "bin"


def ask(bin: Path, home: Path) -> None:
    """From an empty home, with nothing of the repository in the environment."""
    env = {"HOME": str(home), "PATH": "/usr/bin:/bin", "TMPDIR": tempfile.gettempdir()}
    where = [bin / "python", "-c", "import quince; print(quince.__file__)"]
    found = Path(subprocess.check_output(where, cwd=home, env=env, text=True).strip())
    if not found.is_relative_to(bin.parent):
        sys.exit(f"quince was imported from {found}, not from the wheel")
    began = time.monotonic()
    answer = subprocess.run(
        [bin / "quince", "run", QUESTION],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd=home,
        env=env,
        text=True,
        check=False,
        timeout=300,
    )
    if answer.stdout.strip() != ANSWER:
        sys.exit(f"it answers {answer.stdout!r}: {answer.stderr}")
    print(f"{ANSWER} ({time.monotonic() - began:.1f} s)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--extra", default="" if sys.platform == "darwin" else "cpu")
    parser.add_argument("--offline", action="store_true")
    options = parser.parse_args()
    wheel = options.wheel.resolve()
    check_contents(wheel)
    with tempfile.TemporaryDirectory(prefix="quince-wheel-") as directory:
        home = Path(os.path.realpath(directory)) / "home"
        home.mkdir()
        ask(install(wheel, home.parent / "venv", None if options.offline else options.extra), home)


if __name__ == "__main__":
    main()
