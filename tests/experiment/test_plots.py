"""What a plot shows: the curves, and the lines across them."""

import numpy as np
import pytest
from reference.tables import scored

from debias_jax.experiment import _plots

pytest.importorskip("matplotlib")


def test_curves_are_means_over_runs_and_levels_lie_across(tmp_path, drawn_figures):
    history = [{"epoch": epoch, "pcc": [0.1 * epoch, 0.3 * epoch]} for epoch in (1, 2, 3)]
    made = [
        scored(name, [[0.5], [0.5]])._replace(dataset="made", history=rows)
        for name, rows in (("biif", history), ("joint_opt", history[:2]))
    ]
    path = tmp_path / "pcc.png"
    _plots.curves(path, made, {"pcc": "PCC"}, levels={"popularity": 0.8})
    assert path.read_bytes().startswith(b"\x89PNG")
    ((figure, (axis,)),) = drawn_figures
    lines = {line.get_label(): line for line in axis.get_lines()}
    assert list(lines) == ["biif", "joint_opt", "popularity"]
    np.testing.assert_allclose(lines["biif"].get_ydata(), [0.2, 0.4, 0.6])
    assert lines["joint_opt"].get_xdata().tolist() == [1, 2]
    assert set(lines["popularity"].get_ydata()) == {0.8}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(lines)


def test_the_band_is_the_sd_of_a_sample_and_nothing_around_the_last_run(tmp_path, drawn_figures):
    rows = [[0.0, 0.2], [0.1, 0.4], [0.3, None]]
    history = [{"epoch": epoch, "pcc": row} for epoch, row in enumerate(rows, 1)]
    made = scored("biif", [[0.5], [0.5]])._replace(dataset="made", history=history)
    _plots.curves(tmp_path / "pcc.png", [made], {"pcc": "PCC"})
    ((_, (axis,)),) = drawn_figures
    (band,) = axis.collections
    heights = {}
    for epoch, height in band.get_paths()[0].vertices:
        heights.setdefault(int(epoch), []).append(height)
    # Of two values the sd is their distance over the root of 2.
    for epoch, (mean, distance) in enumerate([(0.1, 0.2), (0.25, 0.3), (0.3, 0.0)], 1):
        assert max(heights[epoch]) == pytest.approx(mean + distance / np.sqrt(2))
        assert min(heights[epoch]) == pytest.approx(mean - distance / np.sqrt(2))


def test_bars_begin_at_0_with_the_sd_of_a_sample(tmp_path, drawn_figures):
    made = [
        scored("biif", [[0.2, 0.4], [0.4, 0.8]])._replace(dataset="made"),
        scored("umf", [[0.1], [0.1]])._replace(dataset="made"),
    ]
    _plots.bars(tmp_path / "bars.png", made, "dcg@3")
    ((_, (axis,)),) = drawn_figures
    assert [bar.get_x() for bar in axis.patches] == [0, 0] and axis.get_xlim()[0] == 0
    # Runs of .3 and .6: mean .45, sd .3 / sqrt 2.
    np.testing.assert_allclose([bar.get_width() for bar in axis.patches], [0.45, 0.1], rtol=1e-6)
    (first, second) = axis.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose(first[:, 0], 0.45 + 0.3 / np.sqrt(2) * np.array([-1, 1]), rtol=1e-6)
    np.testing.assert_allclose(second[:, 0], [0.1, 0.1], rtol=1e-6)
    assert [label.get_text() for label in axis.get_yticklabels()] == ["biif", "umf"]
    assert [text.get_text() for text in axis.texts] == ["0.450", "0.100"]
    assert axis.yaxis_inverted() and (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_is_drawn_of_logs_that_were_not_kept(tmp_path, drawn_figures):
    bare = scored("biif", [[0.5]])._replace(dataset="made", history=[{"epoch": 1, "loss": [0.1]}])
    _plots.curves(tmp_path / "pcc.png", [bare], {"pcc": "PCC"}, levels={"popularity": 0.8})
    assert not (tmp_path / "pcc.png").exists() and not drawn_figures
