"""The versions of the libraries, against those that Quince was tested with."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from importlib import metadata

from packaging.requirements import Requirement

from quince.doctor.finding import Finding, ok, problem

# Those whose version matters most, and so is shown when all is well.
_SHOWN = ("mlx", "mlx-lm", "mlx-vlm", "transformers")


def packages(requirements: Iterable[str], version: Callable[[str], str | None]) -> Finding:
    """``requirements``: as packages declare them; ``version``: of an installed package, None if it is not there."""
    wrong = []
    for requirement in map(Requirement, requirements):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = version(requirement.name)
        if found is None:
            wrong.append(f"{requirement.name} is missing")
        elif not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} is {found}, not {requirement.specifier}")
    if wrong:
        return problem("packages", "; ".join(wrong), "install Quince again, into an environment of its own")
    shown = (f"{name} {found}" for name in _SHOWN if (found := version(name)) is not None)
    return ok("packages", ", ".join(shown) or "as Quince needs them")


def look() -> Finding:
    """Here. The single-file binary has no requirements: it holds what it needs."""
    return packages(_requirements(), installed_version)


def _requirements() -> Collection[str]:
    try:
        return metadata.requires("quince") or []
    except metadata.PackageNotFoundError:
        return []


def installed_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def installed_names() -> list[str]:
    return [(found.name or "").lower().replace("_", "-") for found in metadata.distributions()]
