"""The notebooks run from top to bottom, and are saved with their figures."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def pictures(notebook):
    return [output for output in outputs(notebook) if "image/png" in output.get("data", {})]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_its_saved_pictures_are_those_it_makes(path, tmp_path):
    saved = nbformat.read(path, as_version=4)
    assert not [output for output in outputs(saved) if output.get("name") == "stderr" or "ename" in output]
    fresh = nbformat.read(path, as_version=4)
    NotebookClient(fresh, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert len(pictures(fresh)) == len(pictures(saved)) > 1
    assert "/tmp" not in path.read_text()


def test_there_are_four():
    assert len(NOTEBOOKS) == 4
