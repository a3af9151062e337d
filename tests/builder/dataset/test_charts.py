"""Charts are drawn for any names and any counts."""

import numpy as np
import pytest

from cyclepref.builder.dataset.charts import HEIGHT, histograms, win_matrix


def histogram(counts: list[int]) -> dict:
    return {"counts": counts, "edges": np.linspace(0, 1, len(counts) + 1).tolist(), "mean": 0.5}


def dark(picture) -> int:
    return int((np.asarray(picture.convert("L")) < 128).sum())


def test_a_histogram_has_a_chart_for_each_metric_and_taller_bars_for_larger_counts():
    one = histograms({"lpips": histogram([1] * 20)})
    two = histograms({"lpips": histogram([1] * 20), "dreamsim": histogram([5] * 10 + [0] * 10)})
    assert (one.height, two.height) == (HEIGHT, 2 * HEIGHT)
    assert dark(histograms({"m": histogram([9] * 20)})) > dark(histograms({"m": histogram([9] + [1] * 19)}))


@pytest.mark.parametrize("names", [["a", "b"], ["x" * 500, "\u202e\x1b[31m"], ["模型", "b"]])
def test_a_win_matrix_takes_any_names_and_models_that_never_met(names):
    picture = win_matrix(names, [[0, 3], [1, 0]])
    assert picture.width < 800
    assert dark(picture) > dark(win_matrix(names, [[0, 0], [0, 0]]))
