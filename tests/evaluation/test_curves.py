import pytest
from lxml import etree

from medmt5.evaluation.curves import NUM_COLORS, draw_losses

METRICS = [{"step": step, "loss": 100.0 / step} for step in (1, 10, 100)] + [{"step": 100, "eval_loss": 2.0}]


def parse(svg):
    return etree.fromstring(svg.encode(), etree.XMLParser(resolve_entities=False, no_network=True))


def test_the_picture_is_valid_titled_scales_and_leaves_colours_to_the_page():
    svg = draw_losses({0: METRICS, 1: METRICS}, "Loss of two runs")
    root = parse(svg)
    assert root.get("role") == "img"
    assert root.find("{http://www.w3.org/2000/svg}title").text == "Loss of two runs"
    assert (root.get("width"), root.get("height")) == (None, None)
    assert root.get("viewBox")
    for variable in ("var(--run-0)", "var(--run-1)", "var(--ink)", "var(--rule)"):
        assert variable in svg
    assert "#0102" not in svg
    assert "#0103" not in svg


def test_the_same_metrics_give_the_same_picture():
    assert draw_losses({0: METRICS}, "Loss") == draw_losses({0: METRICS}, "Loss")


@pytest.mark.parametrize("metrics", [[], [{"step": 1, "loss": 0.0}], [{"step": 5, "eval_loss": 1.0}], METRICS[:1]])
def test_few_or_odd_points_are_drawn_too(metrics):
    assert parse(draw_losses({NUM_COLORS + 1: metrics}, "Loss")).get("viewBox")
