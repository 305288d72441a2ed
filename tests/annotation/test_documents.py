from medmt5.annotation.documents import document_id, split_document
from medmt5.annotation.repairs import Repairs
from medmt5.annotation.spans import Span

TEXT = "Known deficiency of EC. Two. Three\n\u200b\nNo asthma."


def split(spans):
    repairs = Repairs()
    examples = list(
        split_document("d", "en", TEXT, {span: line for line, span in enumerate(spans, 1)}, repairs, "d.ann")
    )
    return examples, repairs


def test_sentences_are_numbered_and_spans_count_from_their_start():
    examples, repairs = split([Span(40, 46, "Disease"), Span(6, 16, "Disease")])
    assert [(e.id, e.text) for e in examples if e.spans] == [("d-1", "Known deficiency of EC."), ("d-5", "No asthma.")]
    assert [e.text[s:t] for e in examples for s, t, _ in e.spans] == ["deficiency", "asthma"]
    assert not repairs.counts


def test_sentences_that_a_span_joins_stay_one_and_are_counted():
    examples, repairs = split([Span(6, 34, "Disease")])
    assert [e.text for e in examples] == ["Known deficiency of EC. Two. Three", "No asthma."]
    assert [e.text[s:t] for e in examples for s, t, _ in e.spans] == ["deficiency of EC. Two. Three"]
    assert repairs.counts == {"sentences joined by a span": 2}


def test_repairs_name_the_line_of_the_annotation():
    _, repairs = split([Span(0, 5, "Drug"), Span(41, 46, "Disease"), Span(40, 50, "Disease")])
    assert repairs.to_json()["overlapping span dropped"]["first"] == ["d.ann:2"]


def test_sentences_that_are_given_are_kept():
    sentences = [(0, 28), (29, 34), (37, 47)]
    spans = {Span(40, 46, "Disease"): 1}
    examples = list(split_document("d", "en", TEXT, spans, Repairs(), "d.ann", sentences))
    assert [e.text for e in examples] == ["Known deficiency of EC. Two.", "Three", "No asthma."]
    assert [e.text[s:t] for e in examples for s, t, _ in e.spans] == ["asthma"]


def test_many_sentences_and_spans_take_linear_time():
    text = "No asthma. " * 20_000
    spans = {Span(start + 3, start + 9, "Disease"): 1 for start in range(0, len(text), 11)}
    assert sum(len(e.spans) for e in split_document("d", "en", text, spans, Repairs(), "d")) == 20_000


def test_the_id_of_a_document_is_its_path_without_the_suffix():
    assert [document_id(name) for name in ("a.txt", "b/a.v2.ann", "a")] == ["a", "b/a.v2", "a"]


def test_a_line_of_invisible_characters_is_no_example():
    assert all(example.words for example in split([])[0])
