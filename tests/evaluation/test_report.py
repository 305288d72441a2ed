import json
from html.parser import HTMLParser

import pytest

from medmt5.annotation.spans import Span
from medmt5.errors import InputError
from medmt5.evaluation.report import EXAMPLES_PER_LANGUAGE, write_report
from medmt5.evaluation.results import Prediction, write_predictions, write_scores
from medmt5.evaluation.summary import summarize

HOSTILE = """<script>alert("x")</script></details></pre>'"&amp;$x^2$"""
WORDS = ("No", "severe", "asthma", "now")
GOLD = (Span(1, 3, "Disease"),)
VOID = {"meta", "br"}


class Page(HTMLParser):
    """Tags and text of a page; fails on tags that are not closed in order."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.open, self.text, self.attributes = [], [], "", []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def make_run(tmp_path):
    """Returns make_run(name, predicted, …) -> MODEL_DIR with metrics, configuration and nine sentences a language."""

    def make(name, predicted=(), words=WORDS, gold=GOLD, langs=("en",)):
        folder = tmp_path / name
        evaluation = folder / "evaluation/checkpoint_20"
        predictions = [
            Prediction(f"{lang}{n}", lang, words, gold, tuple(predicted), -1.0, f"d{n % 3}")
            for lang in langs
            for n in range(9)
        ]
        write_predictions(evaluation / "task.test.jsonl", predictions)
        scores = summarize({"task": (predictions, ("Disease",))})
        write_scores(evaluation / "scores.json", {"step": 20, "split": "test"} | scores)
        lines = [{"step": 10, "loss": 9.5}, {"step": 10, "eval_loss": 3.0}, {"step": 20, "loss": 0.125}]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (folder / "config.gin").write_text("MIXTURE_OR_TASK_NAME = 'my_mixture'\nBATCH_SIZE = 8\n")
        return folder

    return make


def test_the_page_holds_losses_scores_examples_and_configuration_and_needs_nothing_else(make_run, tmp_path):
    path = write_report(tmp_path / "out/report.html", [("one", make_run("one", [Span(1, 3, "Disease")]))], "My title")
    page = Page(path)
    for text in ("My title", "my_mixture", "0.125", "1.000", "Loss by step", "severe asthma", "BATCH_SIZE = 8"):
        assert text in page.text
    assert page.tags.count("figure") == 1
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    links = [value for name, value in page.attributes if name in ("src", "href", "xlink:href") and value[0] != "#"]
    assert links == []


def test_text_from_data_is_never_markup(make_run, tmp_path):
    run = make_run("one", [Span(0, 1, HOSTILE)], words=(HOSTILE, HOSTILE), gold=(Span(1, 2, HOSTILE),))
    (run / "config.gin").write_text(f"MIXTURE_OR_TASK_NAME = '{HOSTILE}'\n")
    page = Page(write_report(tmp_path / "report.html", [(HOSTILE, run)], HOSTILE))
    assert "script" not in page.tags
    assert page.text.count(HOSTILE) > 10


@pytest.mark.parametrize(
    ("predicted", "shown"),
    [
        (Span(1, 3, "Disease"), ("✓\xa0Disease", "as annotated")),
        (None, ("○\xa0Disease, missed", "differs")),
        (Span(3, 4, "Drug"), ("+\xa0Drug, not annotated", "differs")),
        (Span(1, 3, "Drug"), ("≠\xa0Drug, is Disease", "differs")),
        (Span(2, 3, "Disease"), ("↔\xa0Disease, is “severe asthma”", "differs")),
        ([Span(1, 2, "Disease"), Span(2, 3, "Drug")], ("÷\xa0Drug, part of “severe asthma” (Disease)", "differs")),
    ],
    ids=["correct", "missed", "spurious", "label", "boundary", "split"],
)
def test_every_kind_of_error_is_told_in_words_and_signs(make_run, tmp_path, predicted, shown):
    run = make_run("one", predicted if isinstance(predicted, list) else [predicted] if predicted else [])
    article = (
        write_report(tmp_path / "report.html", [("one", run)], "x")
        .read_text()
        .split("<article>")[1]
        .split("</article>")[0]
    )
    (tmp_path / "article.html").write_text(article)
    assert all(text in Page(tmp_path / "article.html").text for text in shown)


def test_a_sentence_is_shown_whole_and_in_order(make_run, tmp_path):
    page = write_report(tmp_path / "report.html", [("one", make_run("one", [Span(2, 4, "Drug")]))], "x").read_text()
    shown = page.split("<article>")[1].split("</dd>")[0].split('<dd lang="en">')[1]
    (tmp_path / "dd.html").write_text(shown.replace("<small>Disease</small>", ""))
    assert Page(tmp_path / "dd.html").text.split() == ["No", "severe", "asthma", "now"]


def test_languages_have_equally_many_examples_the_same_ones_each_time(make_run, tmp_path):
    run = make_run("one", langs=("en", "es", "it"))
    pages = [write_report(tmp_path / f"{n}.html", [("one", run)], "x").read_text() for n in range(2)]
    assert pages[0] == pages[1]
    assert [part.count("<article>") for part in pages[0].split('id="examples"')[1].split("<h3>")[1:]] == [
        EXAMPLES_PER_LANGUAGE
    ] * 3


def test_errors_come_first_but_not_alone(make_run, tmp_path):
    run = make_run("one")
    file = run / "evaluation/checkpoint_20/task.test.jsonl"
    gold = (Span(0, 1, "Drug"),)
    write_predictions(
        file, [Prediction(str(n), "en", ("a", "b"), gold, gold if n % 2 else (), 0.0, "d") for n in range(20)]
    )
    articles = write_report(tmp_path / "report.html", [("one", run)], "x").read_text().split("<article>")[1:]
    assert ["as annotated" in article for article in articles] == [False] * 4 + [True] * 2


def test_runs_stand_side_by_side_and_the_best_of_a_row_is_bold(make_run, tmp_path):
    runs = [("good", make_run("one", [Span(1, 3, "Disease")])), ("bad", make_run("two"))]
    page = write_report(tmp_path / "report.html", runs, "x").read_text()
    row = page.split("Micro-F1 by language and label</caption>")[1].split("<tbody")[1].split("</tr>")[0]
    assert "<strong>1.000</strong>" in row
    assert "0.000" in row
    assert "<strong>0.000" not in row
    assert page.count("<figure>") == 1  # one mixture, one picture
    assert "cannot be compared" not in page


def test_merged_and_tangled_spans_name_all_that_they_cover(make_run, tmp_path):
    gold = (Span(0, 2, "Drug"), Span(2, 4, "Disease"))
    merged = make_run("one", [Span(0, 4, "Drug")], gold=gold)
    tangled = make_run("two", [Span(0, 3, "Drug"), Span(3, 4, "Drug")], gold=gold)
    text = Page(write_report(tmp_path / "report.html", [("a", merged), ("b", tangled)], "x")).text
    assert "∪\xa0Drug, is “No severe” and “asthma now” (Disease)" in text
    assert "≈\xa0Drug, mixes “No severe” and “asthma now” (Disease)" in text


def section(page, name):
    return page.split(f'id="{name}"')[1].split("</section>")[0]


def test_intervals_kinds_of_errors_and_ways_of_counting_are_shown(make_run, tmp_path):
    run = make_run("one", [Span(1, 2, "Disease")])
    page = write_report(tmp_path / "report.html", [("one", run)], "x").read_text()
    assert "0.000 to 0.000" in section(page, "f1")
    rows = section(page, "errors").split("<tr")
    assert any("wrong boundary" in row and "9 / 9" in row for row in rows)
    assert any("missed" in row and "0 / 0" in row for row in rows)
    [numbers] = [row for row in rows if "<svg" in row]
    assert [numbers.count(number) for number in ("0.000", "0.500", "1.000")] == [4, 1, 1]
    assert 'id="differences"' not in page
    assert 'id="seeds"' not in page


def test_a_second_run_is_tested_against_the_first_if_the_sentences_are_the_same(make_run, tmp_path):
    runs = [("first", make_run("one")), ("second", make_run("two", GOLD)), ("third", make_run("three", langs=("es",)))]
    text = section(write_report(tmp_path / "report.html", runs, "x").read_text(), "differences")
    assert "Differences from first" in text
    assert "+1.000" in text
    assert "third: not the same sentences" in text


def test_runs_of_one_name_are_seeds_with_mean_and_deviation_and_no_test_between_them(make_run, tmp_path):
    runs = [("model", make_run("one", GOLD)), ("model", make_run("two"))]
    path = write_report(tmp_path / "report.html", runs, "x")
    assert "0.500 ± 0.707" in section(path.read_text(), "seeds")
    assert 'id="differences"' not in path.read_text()
    assert {"model 1", "model 2"} <= {line.strip() for line in Page(path).text.splitlines()}
    with pytest.raises(InputError, match="run 'model' is given twice with"):
        write_report(tmp_path / "report.html", runs[:1] * 2, "x")


def test_scores_of_an_older_version_are_refused(make_run, tmp_path):
    run = make_run("one")
    write_scores(run / "evaluation/checkpoint_20/scores.json", {"step": 20, "split": "test", "languages": {}})
    with pytest.raises(InputError, match=r"checkpoint_20 is of an older version.*run medmt5 evaluate"):
        write_report(tmp_path / "report.html", [("one", run)], "x")


def test_a_checkpoint_shows_its_own_evaluation_and_the_metrics_up_to_it(make_run, tmp_path):
    run = make_run("one")
    write_scores(run / "evaluation/checkpoint_10/scores.json", {"step": 10, "split": "dev"} | summarize({}))
    page = Page(write_report(tmp_path / "report.html", [("early", run / "checkpoint_10")], "x"))
    assert "dev, step 10" in page.text
    assert "9.500" in page.text
    assert "0.125" not in page.text


def test_what_is_missing_is_said(tmp_path):
    (tmp_path / "new").mkdir()
    page = Page(write_report(tmp_path / "report.html", [("new", tmp_path / "new")], "x"))
    for text in (
        "new: no training metrics yet",
        "new: no evaluation yet",
        "no run has been evaluated yet",
        "No config.gin",
    ):
        assert text in page.text


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="run 'a': no folder"):
        write_report(tmp_path / "report.html", [("a", tmp_path / "nothing")], "x")
