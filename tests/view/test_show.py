import dataclasses
import itertools
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest
import torch
from conftest import random_ids, tiny_llama
from PIL import Image

import homer
from docs.picture import photograph, without_documents
from homer import Answer, CompactCache, HomerConfig, HomerModel, InputError, plan_merge, show
from homer.demo import DOCUMENTS as DEMO
from homer.generation.answer_stream import make_answer
from homer.text.files import read_documents
from homer.view.page import draw_tree
from homer.view.styles import DARK, LIGHT, shades

TEXTS = [document["text"] for document in read_documents([DEMO])]
ATTACK = (
    "</div></mark></main><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    "<style>.homer-answer{display:none}</style> &amp; 'single' \"double\" 日本語 \u202eright to left\u202c"
)
DOCUMENTS = [
    {"title": '"><script>document.title="owned"</script>', "text": f"{ATTACK}\n\n{TEXTS[0][:2000]}"},
    {"title": "Office guide", "text": f"{TEXTS[3][:2500]}\n\nThe door code for the northern archive is 48213. 😀"},
    TEXTS[1][:1500],
]
QUESTION = "What is the door code for the northern archive? <b>"


@pytest.fixture(scope="module")
def answer(mini: HomerModel) -> Answer:
    return mini.ask(QUESTION, DOCUMENTS)


class Reader(HTMLParser):
    """Tags and attributes of a page, and the text inside every element of class `text`."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.marked = ""
        self._open: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if ("class", "text") in attrs:
            self.texts.append("")
            self._open = ["div"]
        elif self._open:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._open:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[-1] += data
        if self._open and self._open[-1] == "mark":
            self.marked += data


@pytest.mark.parametrize("context_len", [20, 200, 900])
@pytest.mark.parametrize("layers", [3, 6])
def test_levels_survived_agree_with_the_plan(context_len: int, layers: int) -> None:
    config = HomerConfig(max_chunk_len=32, target_len=30, layers_warmup=1)
    model = HomerModel(tiny_llama(layers=layers), config=config)
    parts = random_ids(4, context_len, 5)
    cache = model.compress(*parts)
    plan = model.plan(4, context_len, 5)
    assert cache.survived is not None
    assert cache.survived.shape == (context_len + 9,)
    through = cache.survived[4:-5]
    assert cache.plan == plan
    for level, targets in enumerate(plan.targets):
        assert int((through > level).sum()) == sum(target - 9 for target in targets)
    assert (cache.survived == plan.height + 1).nonzero().flatten().tolist() == cache.kept_tokens.tolist()
    batched = model.compress(*parts, config=dataclasses.replace(config, chunk_batch_size=4))
    assert torch.equal(batched.survived, cache.survived)


def test_the_trace_covers_every_document_once(answer: Answer) -> None:
    trace = answer.trace
    assert trace.levels == trace.plan.height + 1 > 2
    assert [document.title for document in trace.documents] == [DOCUMENTS[0]["title"], "Office guide", None]
    assert sum(document.context_tokens for document in trace.documents) == trace.plan.spans[-1][1]
    for document in trace.documents:
        assert document.spans[0][0] == 0
        assert document.spans[-1][1] == len(document.text)
        assert all(a[1] == b[0] and a[2] != b[2] for a, b in zip(document.spans, document.spans[1:], strict=False))
        assert {level for _, _, level in document.spans} <= set(range(trace.levels + 1))
    by_index = {source.index: source for source in answer.sources}
    for index, document in enumerate(trace.documents):
        assert (document.tokens, document.kept) == (by_index[index].tokens, by_index[index].kept)
        kept = {place for a, b, level in document.spans if level == trace.levels for place in range(a, b)}
        assert kept == {i for p in by_index[index].passages for a, b in p.spans for i in range(a, b)} | {
            i for i in kept if document.text[i].isspace()
        }


def test_as_json_and_back(answer: Answer, tmp_path: Path) -> None:
    facts = answer.to_dict()
    assert json.loads(json.dumps(facts)) == facts
    again = Answer.from_dict(json.loads(json.dumps(facts)))
    assert again == answer
    assert again._repr_html_() == answer._repr_html_()
    assert show(facts, tmp_path / "a.html").read_text() == answer.show(tmp_path / "b.html").read_text()
    assert show(answer, tmp_path / "c.html") == tmp_path / "c.html"
    assert len(repr(answer)) < len(json.dumps(facts))


@pytest.mark.parametrize(
    "facts", [{}, {"text": "a"}, {"text": "a", "sources": 3, "usage": {}, "finish_reason": "stop"}]
)
def test_what_is_no_answer_is_refused(facts: dict) -> None:
    with pytest.raises(InputError, match="give an Answer, its to_dict"):
        show(facts)


def test_where_the_file_goes(answer: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    first, second = answer.show(), answer.show()
    assert first != second
    assert {path.parent for path in (first, second)} == {tmp_path}
    with pytest.raises(InputError, match="make it first"):
        answer.show(tmp_path / "none" / "a.html")


@pytest.mark.parametrize("whole", [True, False])
def test_every_text_stays_text(answer: Answer, whole: bool, tmp_path: Path) -> None:
    source = answer.show(tmp_path / "a.html").read_text() if whole else answer._repr_html_()
    reader = Reader(source)
    assert not {"script", "img", "iframe", "link", "object", "b", "base"} & set(reader.tags)
    assert reader.tags.count("style") == 1
    assert not [name for name, _ in reader.attributes if name.startswith("on") or name in ("src", "srcset")]
    assert all(value.startswith("#") for name, value in reader.attributes if name == "href")
    assert "url(" not in source
    assert "@import" not in source
    texts = [document if isinstance(document, str) else document["text"] for document in DOCUMENTS]
    assert reader.texts == texts
    assert "48213" in reader.marked


def test_the_tree_shows_every_chunk(answer: Answer) -> None:
    source, plan = answer._repr_html_(), answer.trace.plan
    assert source.count("tokens held") == sum(map(len, plan.lengths))
    assert f"{plan.lengths[0][0]:,} tokens held, {plan.targets[0][0]:,} kept" in source
    assert 'role="img" aria-label="The tree. Leaves, layers 0' in source


def test_a_tree_of_very_many_chunks_is_drawn_in_rows(answer: Answer) -> None:
    plan = plan_merge(4, 9000, 5, layers=16, max_chunk_len=32, target_len=32, layers_warmup=6)
    assert len(plan.spans) == 512
    source = draw_tree(dataclasses.replace(answer.trace, plan=plan))
    assert "512 chunks, drawn as one: " in source
    assert f"{sum(plan.lengths[0]):,} tokens held, {sum(plan.targets[0]):,} kept" in source
    assert source.count("tokens held") < 512


def test_what_fits_the_window_is_all_kept(mini: HomerModel) -> None:
    reader = Reader(mini.ask("What is the door code?", ["The door code is 48213."])._repr_html_())
    assert reader.texts == [reader.marked] == ["The door code is 48213."]


def test_a_cache_file_that_did_not_note_levels(mini: HomerModel, tmp_path: Path) -> None:
    prompt = mini.build_prompt(QUESTION, DOCUMENTS)
    cache = mini.compress_prompt(prompt)
    cache.save(tmp_path / "new")
    dataclasses.replace(cache, survived=None).save(tmp_path / "old")
    new, old = (CompactCache.load(tmp_path / name) for name in ("new", "old"))
    assert torch.equal(new.survived, cache.survived)
    answers = [make_answer(prompt, c, mini.generate(c, 8)) for c in (new, old)]
    assert answers[1].trace is None
    assert answers[0].sources == answers[1].sources
    assert Answer.from_dict(answers[1].to_dict()) == answers[1]
    assert "was not recorded" in answers[1]._repr_html_()
    assert "was not recorded" not in answers[0]._repr_html_()


def test_in_a_notebook_it_is_displayed(answer: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(homer.__file__).parent.parent))
    (tmp_path / "answer.json").write_text(json.dumps(answer.to_dict()))
    load = "import json, homer\nanswer = homer.Answer.from_dict(json.load(open('answer.json')))"
    cells = [nbformat.v4.new_code_cell(text) for text in (load, "answer.show()", "answer")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path)}}, timeout=120).execute()
    shown, last = (cell.outputs for cell in notebook.cells[1:])
    assert [output.output_type for output in shown] == ["display_data"]
    assert shown[0].data["text/html"] == last[0].data["text/html"] == answer._repr_html_()
    assert not list(tmp_path.glob("*.html"))


@pytest.mark.parametrize("leaves", [2, 3, 5, 6, 7, 9])
def test_every_chunk_is_drawn_above_the_chunks_it_was_made_of(answer: Answer, leaves: int) -> None:
    lens = [300 + 10 * number for number in range(leaves)]
    plan = plan_merge(
        4, sum(lens), 5, layers=16, max_chunk_len=512, target_len=512, layers_warmup=6, document_lens=lens
    )
    assert len(plan.spans) == leaves
    source = draw_tree(dataclasses.replace(answer.trace, plan=plan))
    boxes = re.findall(r"<title>Chunk \d+: .*?</title><rect class=.dropped. x=.([\d.]+).*?width=.([\d.]+)", source)
    edges = iter([(float(x), float(x) + float(width)) for x, width in boxes])
    rows = [[next(edges) for _ in row] for row in reversed(plan.lengths)][::-1]
    assert next(edges, None) is None
    for level in range(1, plan.height + 1):
        for index, (start, end) in enumerate(rows[level]):
            family = [rows[level - 1][child] for child in plan.children(level, index)]
            assert (start, end) == pytest.approx((family[0][0], family[-1][1]), abs=2)
    assert (rows[-1][0][0], rows[-1][0][1]) == pytest.approx((230, 1000), abs=2)


def test_text_with_line_ends_of_other_systems_is_drawn_as_it_is(mini: HomerModel) -> None:
    text = "First.\r\nStill first.\r\n\r\nThe door code is 48213.\r\n"
    found = mini.ask("What is the door code?", [text])
    assert Reader(found._repr_html_()).texts == [text]
    assert {passage.text for passage in found.sources[0].passages} == {
        "First.\r\nStill first.",
        "The door code is 48213.\r\n",
    }


def lab(colour: tuple[int, ...]) -> tuple[float, float, float]:
    """A colour of sRGB in CIELAB, where distance is about what the eye sees."""
    linear = [((c / 255 + 0.055) / 1.055) ** 2.4 if c > 10 else c / 255 / 12.92 for c in colour]
    rows = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
    xyz = [sum(a * b for a, b in zip(row, linear, strict=True)) for row in rows]
    x, y, z = (
        v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (xyz[0] / 0.9505, xyz[1], xyz[2] / 1.089)
    )
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def luminance(colour: tuple[int, ...]) -> float:
    linear = [((c / 255 + 0.055) / 1.055) ** 2.4 if c > 10 else c / 255 / 12.92 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(
    ("stops", "ink", "others"),
    [
        (LIGHT, (28, 33, 40), [(230, 233, 238), (255, 178, 36)]),
        (DARK, (232, 234, 237), [(42, 48, 58), (245, 166, 35)]),
    ],
    ids=["light", "dark"],
)
@pytest.mark.parametrize("levels", range(2, 9))
def test_shades_can_be_told_apart_and_bear_text(stops: Any, ink: Any, others: list[Any], levels: int) -> None:
    colours = shades(levels, stops)
    assert len(colours) == levels - 1
    dropped, kept = others
    row = [dropped, *colours, kept]
    for first, second in itertools.pairwise(row):
        assert math.dist(lab(first), lab(second)) > 9
    for colour in colours:
        light, dark = sorted((luminance(colour), luminance(ink)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 4.5


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def browse(*options: str) -> str:
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *options]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.mark.skipif(BROWSER is None, reason="needs Debian's chromium: apt-get install chromium")
def test_in_chromium(answer: Answer, tmp_path: Path) -> None:
    page = answer.show(tmp_path / "a.html")
    dom = Reader(browse("--dump-dom", page.as_uri()))
    assert "script" not in dom.tags
    assert dom.texts[1] == DOCUMENTS[1]["text"]
    assert "48213" in dom.marked
    assert "owned" not in browse("--dump-dom", page.as_uri()).partition("</title>")[0]
    for scheme, paper in (("1", (255, 255, 255)), ("0", (20, 23, 28))):
        picture = tmp_path / f"{scheme}.png"
        browse(
            "--window-size=1100,1600",
            f"--blink-settings=preferredColorScheme={scheme}",
            f"--screenshot={picture}",
            page.as_uri(),
        )
        with Image.open(picture) as image:
            colors = {color: n for n, color in image.convert("RGB").getcolors(1 << 24)}
        assert max(colors, key=colors.__getitem__) == paper
        kept = (255, 178, 36) if scheme == "1" else (245, 166, 35)
        assert colors[kept] > 5000


@pytest.mark.skipif(BROWSER is None, reason="needs Debian's chromium: apt-get install chromium")
def test_on_a_phone_every_column_is_seen(mini: HomerModel, tmp_path: Path) -> None:
    source = mini.ask(QUESTION, DOCUMENTS[1:])._page(whole=True)
    photograph(without_documents(source), tmp_path / "phone.png", 390)
    with Image.open(tmp_path / "phone.png") as image:
        assert image.width == 390
        right = image.convert("RGB").crop((250, 0, 390, image.height))
        colors = {color: n for n, color in right.getcolors(1 << 24)}
    assert colors.get((11, 92, 173), 0) > 50  # the bars of attention, which are the last column
