"""The figures show what the tables hold, and their text fits."""

import io
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import matplotlib
import pytest
from handmade_cells import CIFAR10, DN2, L2, class_cell, curve_cell
from matplotlib.text import Text

from benchmarks.contracts import Interval
from benchmarks.figures import class_bars, curves, drawn_by_pyplot
from benchmarks.report import result_table


def heights(axes, label):
    (bars,) = [
        bars for bars in axes.containers if bars.get_label() == label and hasattr(bars, "patches")
    ]
    return [bar.get_height() for bar in bars.patches]


def test_bars_show_the_table_and_none_is_cut():
    figure = result_table(
        [class_cell(), class_cell(L2, value=0.45, mean=Interval(0.454, 0.4, 0.5))]
    ).figure()
    (axes,) = figure.axes
    assert heights(axes, "normalize=none") == pytest.approx(
        [90 + n / 10 for n in range(10)] + [90.5]
    )
    assert heights(axes, "paper")[-1] == 92.5
    assert [tick.get_text() for tick in axes.get_xticklabels()] == [*CIFAR10, "mean"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "normalize=none",
        "normalize=l2",
        "paper",
    ]
    assert axes.get_ylim() == (40, 100)
    edges = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches)
    assert all(right <= left + 1e-9 for (_, right), (left, _) in pairwise(edges)), "bars overlap"
    assert result_table([class_cell()]).figure().axes[0].get_ylim() == (50, 100)


def test_whiskers_reach_from_the_lower_to_the_upper_bound():
    (axes,) = class_bars(
        "t", ["cat"], {"ours": [Interval(0.9, 0.87, 0.91)]}, [None], "95 % intervals"
    ).axes
    (whisker,) = axes.collections[0].get_segments()
    assert whisker[:, 1] == pytest.approx([87, 91])
    assert [text.get_text() for text in axes.figure.legends[0].get_texts()] == ["ours"]


def test_a_missing_value_leaves_a_gap():
    (axes,) = class_bars(
        "t", ["a", "b"], {"ours": [None, (0.9, 0.8, 1.0)]}, [0.7, None], "standard error"
    ).axes
    assert heights(axes, "ours") == [90]
    assert heights(axes, "paper") == [70]
    assert axes.patches[0].get_x() > 0.5


def lines(axes):
    """Return label -> (xs, values, lower ends of bars, upper ends of bars)."""
    found = {}
    for one in axes.containers:
        line, _, (bars,) = one.lines
        low, high = zip(*(segment[:, 1] for segment in bars.get_segments()), strict=True)
        found[one.get_label()] = (
            list(line.get_xdata()),
            list(line.get_ydata()),
            list(low),
            list(high),
        )
    return found


def ticks(axes):
    return [tick.get_text() for tick in axes.get_xticklabels()]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def mean_of(value):
    return Interval(value, value - 0.01, value + 0.02)


def test_several_k_are_drawn_as_lines():
    cells = [
        class_cell(e.with_params(k=k), mean=mean_of(0.9 - k / 1000))
        for e in (DN2, L2)
        for k in (10, 1, 2)
    ]
    figure = result_table(cells).figure()
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    assert ticks(axes) == ["1", "2", "10"]
    assert axes.get_xlabel() == "neighbours k"
    assert axes.get_ylabel() == "mean ROCAUC (%)\nbars: 95 % intervals"
    assert legend(figure) == ["normalize=none", "normalize=l2", "paper"]
    xs, values, low, high = lines(axes)["normalize=l2"]
    assert xs == [1, 2, 10]
    assert values == pytest.approx([89.9, 89.8, 89.0])
    assert low == pytest.approx([88.9, 88.8, 88.0])
    assert high == pytest.approx([91.9, 91.8, 91.0])
    (paper,) = (one for one in axes.lines if one.get_label() == "paper")
    assert list(paper.get_ydata()) == [92.5, 92.5]
    bottom, top = axes.get_ylim()
    assert bottom < 88
    assert 92.5 < top <= 100


def test_any_number_of_three_values_is_an_axis_and_two_are_bars():
    kmeans = replace(DN2, detector="dn2_kmeans")
    table = result_table(
        [class_cell(kmeans.with_params(centres=c), mean=mean_of(0.8 + c / 100)) for c in (5, 1, 3)]
    )
    (axes,) = table.figure().axes
    assert (axes.get_xlabel(), axes.get_xscale(), ticks(axes)) == (
        "cluster centres",
        "linear",
        ["1", "3", "5"],
    )
    assert lines(axes)["mean over classes"][1] == pytest.approx([81, 83, 85])
    (axes,) = (
        result_table([class_cell(kmeans.with_params(centres=c)) for c in (5, 1)]).figure().axes
    )
    assert len(heights(axes, "centres=5")) == 11
    (axes,) = result_table([class_cell(replace(DN2, seed=seed)) for seed in range(3)]).figure().axes
    assert len(heights(axes, "seed=2")) == 11, "seeds are repetitions, not an axis"


def test_the_number_with_the_most_values_is_the_axis():
    cells = [
        class_cell(DN2.with_params(k=k, clean=c), mean=mean_of(0.8))
        for k in (1, 2, 3)
        for c in (0, 0.1, 0.2, 0.5)
    ]
    figure = result_table(cells).figure()
    assert figure.axes[0].get_xlabel() == "share of the training images dropped"
    assert ticks(figure.axes[0]) == ["0", "0.1", "0.2", "0.5"]
    assert legend(figure) == ["k=1", "k=2", "k=3", "paper"]


def encoder_cells(*names, mean=0.9):
    return [
        class_cell(replace(DN2, input=f"features:{name}"), mean=mean_of(mean)) for name in names
    ]


def test_encoders_stand_by_depth():
    figure = result_table(
        encoder_cells("resnet101", "resnet18", "resnet50", "resnet152", "resnet34")
    ).figure()
    (axes,) = figure.axes
    assert ticks(axes) == ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
    assert lines(axes)["mean over classes"][0] == [0, 1, 2, 3, 4]
    assert {tick.get_rotation() for tick in axes.get_xticklabels()} == {0}


def test_families_of_encoders_are_lines_of_their_own_and_no_name_is_left_out():
    lites = encoder_cells(*(f"efficientnet_lite{number}" for number in (2, 0, 1)), mean=0.8)
    figure = result_table(
        [*encoder_cells("resnet101", "resnet18"), *lites, *encoder_cells("x+y")]
    ).figure()
    (axes,) = figure.axes
    assert ticks(axes) == [
        *(f"efficientnet_lite{number}" for number in range(3)),
        "resnet18",
        "resnet101",
        "x+y",
    ]
    places = {label: xs for label, (xs, *_) in lines(axes).items()}
    assert places == {"efficientnet_lite*": [0, 1, 2], "resnet*": [3, 4], "x+y*": [5]}
    assert lines(axes)["efficientnet_lite*"][1] == pytest.approx([80, 80, 80])
    assert {tick.get_rotation() for tick in axes.get_xticklabels()} == {35}
    figure.canvas.draw()
    assert axes.get_window_extent().height > 2.3 * figure.dpi, "inches are left for the plot"
    assert (
        min(tick.get_window_extent().y0 for tick in axes.get_xticklabels())
        > figure.legends[0].get_window_extent().y1
    )


def test_names_that_are_no_encoders_are_bars():
    (axes,) = (
        result_table(
            [class_cell(DN2.with_params(index=name)) for name in ("exact", "flat", "ivf4")]
        )
        .figure()
        .axes
    )
    assert len(heights(axes, "index=ivf4")) == 11


def test_means_over_draws_are_drawn_with_their_standard_errors():
    none, l2 = (replace(e, protocol="contamination") for e in (DN2, L2))
    values = {0.0: [(0.9, 0.9)], 0.2: [(0.7, 0.7), (0.8, 0.8)], 0.05: [(0.85, 0.85), (0.85, 0.87)]}
    figure = result_table(
        [curve_cell(none, values), curve_cell(l2, {0.0: [(0.95, 0.95)]})]
    ).figure()
    (axes,) = figure.axes
    assert axes.get_xscale() == "linear"
    assert ticks(axes) == ["0 %", "5 %", "20 %"]
    assert axes.get_ylabel() == "mean ROCAUC (%)\nbars: standard error over draws"
    xs, middle, low, high = lines(axes)["normalize=none"]
    assert xs == [0, 0.05, 0.2]
    assert middle == pytest.approx([90, 85.5, 75])
    assert low == pytest.approx([90, 85, 70])
    assert high == pytest.approx([90, 86, 80])
    assert lines(axes)["normalize=l2"][:2] == ([0], [95])


def test_images_over_a_decade_are_logarithmic_and_groups_are_whole():
    values = [(0.9, 0.9)]
    small = (
        result_table([curve_cell(replace(DN2, protocol="small_train"), {10: values, 5000: values})])
        .figure()
        .axes[0]
    )
    assert (small.get_xscale(), small.get_xlabel(), ticks(small)) == (
        "log",
        "training images",
        ["10", "5,000"],
    )
    groups = (
        result_table(
            [curve_cell(replace(DN2, protocol="groups"), {2.0: values, 3.0: values, 10.0: values})]
        )
        .figure()
        .axes[0]
    )
    assert (groups.get_xscale(), ticks(groups)) == ("linear", ["2", "3", "10"])
    assert groups.get_ylabel() == "mean ROCAUC (%)", "one draw has no bars"


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_title_and_legend_fit_and_ticks_do_not_overlap(count):
    long = DN2.with_params(**{f"p{number}": "some" for number in range(20)})
    small = replace(long, protocol="small_train")
    kinds = [
        replace(small, normalize=how).with_params(metric=letter * 20)
        for how in ("l2", "power")
        for letter in "abcd"
    ]
    values = {float(x): [(0.9, 0.9), (0.8, 0.8)] for x in (*range(1, 60), 2500, 5000)}
    curve = result_table([curve_cell(kind, values) for kind in kinds[:count]]).figure()
    bars = result_table(
        [class_cell(replace(kind, protocol="one_vs_rest")) for kind in kinds[:count]]
    ).figure()
    for figure in (curve, bars):
        figure.canvas.draw()
        (axes,) = figure.axes
        assert len(legend(figure)) == count + (figure is bars)
        (title,) = (text for text in axes.findobj(Text) if text.get_text().startswith("ROCAUC o"))
        assert title.get_text().count("\n") >= 2
        for text in (title, axes.yaxis.label, *figure.legends):
            box = text.get_window_extent()
            assert box.x0 >= 0
            assert box.x1 <= figure.bbox.x1
            assert box.y0 >= 0
            assert box.y1 <= figure.bbox.y1
        boxes = [tick.get_window_extent() for tick in axes.get_xticklabels()]
        assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
        assert axes.get_window_extent().height > 0.5 * figure.bbox.height
    assert len(ticks(curve.axes[0])) > 10
    assert {"1", "5,000"} <= set(ticks(curve.axes[0]))


def test_lines_beyond_the_colours_are_told_apart():
    (axes,) = curves(
        "t", "x", {1.0: "1"}, {f"{n}": {1.0: (0.9, 0.9, 0.9)} for n in range(12)}, ""
    ).axes
    looks = {(one.lines[0].get_color(), one.lines[0].get_linestyle()) for one in axes.containers}
    assert len(looks) == 12


def test_figures_are_pngs_without_pyplot():
    before = dict(matplotlib.rcParams)
    one = (1.0, 1.0, 1.0)
    figure = curves("t", "k", {1: "1", 2: "2"}, {"dn2": {1: one, 2: one}}, "intervals")
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    assert stream.getvalue().startswith(b"\x89PNG")
    assert dict(matplotlib.rcParams) == before
    code = (
        "import sys, benchmarks.report; "
        "print('matplotlib.pyplot' in sys.modules, 'mlflow' in sys.modules)"
    )
    root = Path(__file__).parent.parent.parent
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
        ).stdout
        == "False False\n"
    )


@pytest.mark.parametrize(
    ("names", "degrees"),
    [("abc", 0), (["efficientnet_lite0+efficientnet_lite1", "efficientnet_lite2"], 90)],
)
def test_names_that_do_not_stand_side_by_side_are_turned(names, degrees):
    def plot():
        from matplotlib import pyplot

        axes = pyplot.subplots(figsize=(4, 3))[1]
        axes.set_xticks(range(len(names)), list(names))
        return axes

    (axes,) = drawn_by_pyplot(plot).axes
    assert {label.get_rotation() for label in axes.get_xticklabels()} == {degrees}
