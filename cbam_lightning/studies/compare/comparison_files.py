"""The files of a comparison: table, figures, and the costs that were measured for it."""

from __future__ import annotations

from pathlib import Path

from cbam_lightning.files import check_unwritten
from cbam_lightning.studies.compare.comparison import Comparison
from cbam_lightning.studies.compare.comparison_figures import draw, draw_costs
from cbam_lightning.studies.compare.comparison_table import comparison_table
from cbam_lightning.studies.compare.costs_file import save_costs
from cbam_lightning.tables import table_paths

_COSTS = ("costs.json", "costs.png")


def paths(folder: str | Path) -> list[Path]:
    """Return the paths that ``save`` may write."""
    return [*table_paths(folder, "comparison"), *(Path(folder) / name for name in _COSTS)]


def save(comparison: Comparison, folder: str | Path) -> list[Path]:
    """Write ``comparison.md``, ``.csv`` and ``.png`` and, if there are costs, ``costs.json`` and ``.png``.

    Returns:
        The paths of the files.

    Raises:
        UsageError: One of them already exists; then none is written.
        OSError: The folder or a file cannot be written.
    """
    costs = {result.label: result.costs for result in comparison.results if result.costs}
    *_, data, figure = paths(folder)
    check_unwritten(*paths(folder))
    written = comparison_table(comparison).save(folder, "comparison", draw(comparison))
    if not costs:
        return written
    save_costs(data, costs, comparison.cost_setting)
    draw_costs(comparison).savefig(figure, dpi=130)
    return [*written, data, figure]
