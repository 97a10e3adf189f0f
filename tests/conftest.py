"""Settings of the whole test suite; what is in the fast set and what is not stands in selection.py."""

import os

import pytest
from hypothesis import settings

settings.register_profile("unhot", deadline=None, max_examples=60, print_blob=True)
settings.load_profile("unhot")

pytest_plugins = ["pytester"]  # for test_selection.py

os.environ.setdefault("KERAS_BACKEND", "torch")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run every case, not the fast set alone (see tests/selection.py)")


def all_asked_for(config: pytest.Config) -> bool:
    """By the option, or by the names of tests."""
    return config.getoption("--all") or any("::" in argument for argument in config.args)


@pytest.fixture(scope="session")
def everything(pytestconfig: pytest.Config) -> bool:
    """Whether all is asked for: a test that tries many moments or values takes some of them in the fast set."""
    return all_asked_for(pytestconfig)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what is slow, unless all was asked for."""
    if all_asked_for(config):
        return
    left_out = [item for item in items if item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if not item.get_closest_marker("slow")]
