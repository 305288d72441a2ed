"""The page in a real browser: pasted text is labelled and coloured, and stays text whatever it looks like."""

import threading
import time

import pytest
import uvicorn

from medmt5.evaluation.marked_text import HUES

HOSTILE = """No asthma 😀. <script>document.title = 'bad'</script><img src=x onerror="title='bad'"> metformin &amp;"""


@pytest.fixture
def url(make_app):
    """Where the service listens, in a thread of this process."""
    config = uvicorn.Config(make_app(max_bytes=2_000), port=0, http="h11", ws="none", log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    server.should_exit = True
    thread.join()


@pytest.fixture
def tab(chromium, url):
    """The page, opened and ready."""
    chromium.events.clear()
    chromium.call("Page.navigate", url=url)
    chromium.wait_for(f"location.href === '{url}' && document.readyState === 'complete'")
    chromium.wait_for("document.getElementById('submit').getAttribute('aria-disabled') === 'false'")
    return chromium


def paste(tab, text):
    tab.evaluate("document.getElementById('text').focus(); document.getElementById('text').select()")
    tab.call("Input.insertText", text=text)


def label(tab, text):
    paste(tab, text)
    tab.evaluate("document.getElementById('submit').click()")
    tab.wait_for("!document.getElementById('result').hidden && document.activeElement.id === 'heading'")


def marks(tab):
    return tab.evaluate(
        "[...document.querySelectorAll('mark')].map(m => [m.firstChild.data, m.lastChild.textContent, "
        "getComputedStyle(m).backgroundColor])"
    )


def test_pasted_text_is_labelled_and_coloured_and_stays_text(tab):
    label(tab, HOSTILE)
    (asthma, disease, blue), (metformin, drug, red) = marks(tab)
    assert (asthma, disease, metformin, drug) == ("asthma", "Disease", "metformin", "Drug")
    assert len({blue, red, "rgba(0, 0, 0, 0)"}) == 3
    shown = tab.evaluate("document.getElementById('marked').textContent")
    assert shown == HOSTILE.replace("asthma", "asthmaDisease").replace("metformin", "metforminDrug")
    assert tab.evaluate("document.querySelectorAll('#result script, #result img').length") == 0
    assert "bad" not in tab.evaluate("document.title")
    rows = tab.evaluate("[...document.querySelectorAll('tbody tr')].map(r => [...r.cells].map(c => c.textContent))")
    assert rows == [["Disease", "asthma", "0.88"], ["Drug", "metformin", "0.88"]]
    assert tab.evaluate("JSON.parse(document.getElementById('json').textContent).text") == HOSTILE


def test_the_page_asks_nobody_else_and_breaks_no_rule_of_its_own(tab, url):
    label(tab, "asthma")
    asked = [e["params"]["request"]["url"] for e in tab.events if e["method"] == "Network.requestWillBeSent"]
    assert asked
    assert all(address.startswith(url) for address in asked)
    assert [e for e in tab.events if e["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")] == []


def test_the_keyboard_is_enough(tab):
    """Labels, language and button are reached by Tab; Ctrl + Enter labels; a span in focus tells its probability."""
    paste(tab, "asthma and metformin")
    reached = []
    for _ in range(5):
        tab.press("Tab", 9)
        reached.append(tab.evaluate("document.activeElement.value || document.activeElement.id"))
    assert reached == ["Disease", "Drug", "Chemical", "en", "submit"]
    tab.evaluate("document.querySelector('[value=Disease]').focus()")
    tab.press(" ", 32)
    tab.evaluate("document.getElementById('text').focus()")
    tab.press("Enter", 13, modifiers=2)
    tab.wait_for("document.activeElement.id === 'heading'")
    assert [mark[:2] for mark in marks(tab)] == [["metformin", "Drug"]]
    tab.press("Tab", 9)  # the button to copy
    tab.press("Tab", 9)
    tip = "document.getElementById('tip')"
    assert tab.evaluate(f"{tip}.hidden || {tip}.textContent") == "Drug, probability 0.88"
    assert tab.evaluate("document.activeElement.getAttribute('aria-describedby')") == "tip"
    tab.press("Escape", 27)
    assert tab.evaluate(f"{tip}.hidden")


@pytest.mark.parametrize(
    ("prepare", "text", "message"),
    [
        ("0", " ", "There is no text yet."),
        ("document.querySelectorAll('input').forEach(box => box.click())", "asthma", "Tick at least one label."),
        ("0", "asthma " * 300, "The text is too long"),
        ("document.querySelector('input').value = 'Nothing'", "asthma", "labels[0] is unknown here"),
        ("window.fetch = () => Promise.reject(new TypeError())", "asthma", "The service did not answer."),
    ],
)
def test_what_goes_wrong_is_said(tab, prepare, text, message):
    tab.evaluate(f"{prepare}, 0")
    paste(tab, text)
    tab.evaluate("document.getElementById('submit').click()")
    tab.wait_for("document.getElementById('error').textContent")
    assert message in tab.evaluate("document.getElementById('error').textContent")
    assert tab.evaluate("document.getElementById('submit').getAttribute('aria-disabled')") == "false"


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_and_is_legible_on_small_and_large_screens_by_day_and_night(tab, dark, tmp_path):
    label(tab, "asthma, metformin and glucose, " * 10 + "x" * 300)
    for width in (400, 1200):
        tab.screenshot(tmp_path / "page.png", width, dark)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate(LEAST_CONTRAST) >= 4.5


# Of every hue's label on its mark, the text on it, and the soft and the ordinary text on the page (WCAG 2).
LEAST_CONTRAST = """(() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map((c) => c / 255);
  const light = (colour) => channels(colour).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const contrast = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
  const style = (what) => getComputedStyle(what);
  const page = style(document.body), mark = document.querySelector("mark");
  const found = [contrast(page.color, page.backgroundColor)];
  for (const soft of document.querySelectorAll(".soft")) found.push(contrast(style(soft).color, page.backgroundColor));
  for (const hue of HUES) {
    mark.style.setProperty("--hue", hue);
    found.push(contrast(style(mark).color, style(mark).backgroundColor));
    found.push(contrast(style(mark.lastChild).color, style(mark).backgroundColor));
  }
  const button = style(document.getElementById("submit"));
  found.push(contrast(button.color, button.backgroundColor));
  return Math.min(...found);
})()""".replace("HUES", str(list(HUES)))
