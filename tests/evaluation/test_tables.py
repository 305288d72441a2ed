from rich.console import Console

from medmt5.evaluation.span_scores import Counts, Scores
from medmt5.evaluation.tables import f1_rows, f1_table


def results(**languages):
    return {"languages": {lang: Scores(10, labels).to_json() for lang, labels in languages.items()}, "tasks": {}}


ONE = results(en={"Drug": Counts(4, 4, 2), "Dis": Counts(1, 0, 0)}, es={"Drug": Counts(2, 2, 2)})
OTHER = results(en={"Drug": Counts(4, 4, 4), "Dis": Counts(1, 1, 1)})


def test_rows_hold_each_label_all_labels_and_all_languages_with_gold_counts():
    rows = f1_rows([ONE, OTHER], "languages")
    assert [(row.group, row.label, row.gold, row.f1) for row in rows] == [
        ("en", "all", (5,), (4 / 9, 1.0)),
        ("en", "Dis", (1,), (0.0, 1.0)),
        ("en", "Drug", (4,), (0.5, 1.0)),
        ("es", "Drug", (2,), (1.0, None)),
        ("all", "all", (5, 7), (8 / 13, 1.0)),
        ("all", "Dis", (1,), (0.0, 1.0)),
        ("all", "Drug", (4, 6), (2 / 3, 1.0)),
    ]


def test_runs_scored_on_different_numbers_of_spans_show_both():
    assert "5 / 7" in [row.gold_text for row in f1_rows([ONE, OTHER], "languages")]


def test_one_language_has_no_rows_of_all_together():
    assert {row.group for row in f1_rows([OTHER], "languages")} == {"en"}


def test_the_terminal_table_has_a_column_a_run():
    console = Console(width=100)
    with console.capture() as capture:
        console.print(f1_table({"run a": ONE, "run b": OTHER}))
    lines = capture.get().splitlines()
    assert any(all(word in line for word in ("language", "label", "gold", "run a", "run b")) for line in lines)
    assert any(line.replace("│", " ").split() == ["es", "Drug", "2", "1.000", "–"] for line in lines)


def test_no_results_give_an_empty_table():
    assert f1_table({}).row_count == 0
