"""Files that are rendered from the services' declarations are up to date."""

from pathlib import Path

import pytest

from deploy import render
from tests.deploy.manifests import ROOT


@pytest.mark.parametrize("file", render.FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_rendered_file_is_what_the_services_declare(file: Path) -> None:
    assert file.read_text() == render.FILES[file](), "run `make manifests`"


def test_a_config_map_is_named_after_its_content() -> None:
    """Pods restart when the name changes."""
    first, same = (render.ConfigMap.of("settings", {"a": "1", "b": "2"}) for _ in range(2))
    other = render.ConfigMap.of("settings", {"a": "1", "b": "3"})
    assert first.name == same.name != other.name
