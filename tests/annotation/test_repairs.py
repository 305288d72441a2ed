from rich.console import Console

from medmt5.annotation.repairs import NUM_PLACES, Repairs


def test_all_are_counted_but_only_the_first_places_are_kept():
    repairs = Repairs()
    for line in range(1, 11):
        repairs.add("span widened to whole words", "a.ann", line)
    repairs.add("sentences joined by a span", "b.ann")
    assert repairs.counts == {"span widened to whole words": 10, "sentences joined by a span": 1}
    assert repairs.to_json() == {
        "span widened to whole words": {"count": 10, "first": [f"a.ann:{n}" for n in range(1, NUM_PLACES + 1)]},
        "sentences joined by a span": {"count": 1, "first": ["b.ann"]},
    }


def test_the_table_shows_kind_count_and_places():
    repairs = Repairs()
    repairs.add("invalid UTF-8 replaced", "a.conll", 12)
    console = Console(width=100)
    with console.capture() as capture:
        console.print(repairs)
    row = next(line for line in capture.get().splitlines() if "invalid UTF-8 replaced" in line)
    assert "1" in row
    assert "a.conll:12" in row
