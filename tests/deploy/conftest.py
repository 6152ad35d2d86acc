"""What the tests of the chart share."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.deploy.chart import CHART, decoded, template

_TOLD = """
apiVersion: v1
kind: ConfigMap
metadata: {name: told}
data:
  notes: {{ include (print $.Template.BasePath "/NOTES.txt") . | quote }}
"""


@pytest.fixture
def told(tmp_path: Path) -> Callable[..., str]:
    """Return what renders the notes: helm shows them only after it has installed something."""
    chart = tmp_path / "holdfast"
    shutil.copytree(CHART, chart)
    (chart / "templates/told.yaml").write_text(_TOLD)

    def notes(values: str, *sets: str) -> str:
        manifests = decoded(template(values, *sets, chart=chart))
        (one,) = (each for each in manifests if each["metadata"]["name"] == "told")
        return str(one["data"]["notes"])

    return notes
