"""The panel of parameters, which is built from `/openapi.json`."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from prompts.encoder import SentencePieceEncoder
from protocol import GenerationFields
from tests.support.panel_page import panel_page
from tests.support.paths import CHROMIUM

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed")

ELSEWHERE = {"model", "stream", "stream_options", "response_format", "structured_outputs"}
SHOWN = ["temperature", "top_p", "top_k", "repetition_penalty", "max_tokens", "n", "num_beams"]
OPEN = """
async () => {
  const {createParameters} = await import("/page/parameters.js");
  const {setLanguage} = await import("/page/words.js");
  window.setLanguage = setLanguage;
  setLanguage("zh");
  const schema = await (await fetch("/openapi.json")).json();
  window.changes = [];
  window.panel = createParameters(app, schema, (values) => changes.push(values));
  document.querySelector("main").replaceChildren(panel.node);
}
"""


@pytest.fixture(scope="module")
def browser_page(demo_encoder: SentencePieceEncoder) -> Iterator[Page]:
    with panel_page(demo_encoder) as page:
        yield page


@pytest.fixture
def page(browser_page: Page) -> Page:
    browser_page.evaluate(OPEN)
    return browser_page


def values(page: Page) -> Any:
    return page.evaluate("() => panel.values()")


def row(page: Page, name: str) -> Locator:
    return page.locator(f"[data-field~={name}]")


def test_every_field_that_says_how_to_generate_is_there_and_explained(page: Page) -> None:
    for language in ("en", "zh"):
        page.evaluate("(language) => setLanguage(language)", language)
        fields = page.locator(".field[data-field]").evaluate_all(
            "(rows) => rows.map((row) => row.dataset.field)"
        )
        assert {name for names in fields for name in names.split()} - ELSEWHERE == (
            GenerationFields.model_fields.keys() - ELSEWHERE
        )
        hints = page.locator(".field-hint").evaluate_all(
            "(hints) => hints.map((hint) => hint.textContent)"
        )
        assert all(hint and not hint.startswith(("parameters.", "format.")) for hint in hints)
        assert all(
            any("\u4e00" <= letter <= "\u9fff" for letter in hint) == (language == "zh")
            for hint in hints
        )


def test_seven_fields_are_shown_and_the_rest_is_folded(page: Page) -> None:
    shown = page.locator(".parameters > .field > .field-head code").all_inner_texts()
    assert shown == SHOWN
    expect(row(page, "min_p")).to_be_hidden()


def test_ranges_and_defaults_are_the_servers(page: Page) -> None:
    """Of every number, switch and choice; what has no default is empty."""
    page.locator("summary").click()
    schema = page.evaluate("async () => (await fetch('/openapi.json')).json()")
    fields = schema["components"]["schemas"]["ChatCompletionRequest"]["properties"]
    numbers = 0
    for name in GenerationFields.model_fields.keys() - ELSEWHERE:
        field, default = fields[name], fields[name].get("default")
        editor = row(page, name).locator(f"#field-{name}")
        if editor.get_attribute("type") == "checkbox":
            assert editor.is_checked() == default
        elif "enum" in field:
            assert editor.locator("option").all_inner_texts() == [
                str(value).lower() for value in field["enum"]
            ]
            assert editor.input_value() == str(default).lower()
        elif editor.get_attribute("type") == "number":
            check_number(row(page, name), field.get("anyOf", [field])[0], default)
            numbers += 1
        else:
            assert editor.input_value() == ""
            assert not default
    assert numbers > 15
    assert values(page) == {}


def check_number(row: Locator, field: dict[str, Any], default: float | None) -> None:
    """Assert that a number's box has the range and default of the schema, and that its slider is within them."""
    box, slider = row.locator("[type=number]"), row.locator("[type=range]")
    assert box.input_value() == ("" if default is None else f"{default:g}")
    least, most = box.get_attribute("min"), box.get_attribute("max")
    assert least is not None
    if "minimum" in field:
        assert float(least) == float(field["minimum"])
    else:
        assert 0 < float(least) - field["exclusiveMinimum"] < 0.1
    if "maximum" in field:
        assert float(most or "nan") == float(field["maximum"])
    elif "exclusiveMaximum" in field:
        assert float(most or "nan") == float(field["exclusiveMaximum"]) - 1
    else:
        assert not most
    if slider.count():
        ends = [float(slider.get_attribute(end) or "nan") for end in ("min", "max")]
        assert float(least) <= ends[0] <= (default or 0) <= ends[1] <= float(most or "inf")


def test_top_p_is_pictured_by_the_example_of_the_seed(page: Page) -> None:
    top_p = row(page, "top_p")
    assert top_p.locator(".bar small").all_inner_texts() == ["0.23", "0.20", "0.18", "0.11", "0.10"]
    expect(top_p).to_contain_text("越低越稳")
    for value, kept, total in [("0.6", 3, "0.61"), ("0.62", 4, "0.72"), ("0.23", 1, "0.23"), ("0", 1, "0.23"),
                               ("0.61", 3, "0.61"), ("1", 5, "0.82")]:  # fmt: skip
        top_p.locator("[type=range]").fill(value)
        expect(top_p.locator(".bar:not(.is-out)")).to_have_count(kept)
        expect(top_p.locator(".picture p")).to_contain_text(total)
    top_p.locator("[type=range]").fill("0.6")
    assert values(page) == {"top_p": 0.6}


def test_top_k_and_temperature_are_pictured_by_the_same_five(page: Page) -> None:
    row(page, "top_k").locator("[type=number]").fill("2")
    expect(row(page, "top_k").locator(".bar:not(.is-out)")).to_have_count(2)
    temperature = row(page, "temperature")
    temperature.locator("[type=number]").fill("1")
    shares = temperature.locator(".bar small")
    assert shares.all_inner_texts() == ["0.23", "0.20", "0.18", "0.11", "0.10"]
    temperature.locator("[type=number]").fill("0")
    assert shares.all_inner_texts() == ["1.00", "0.00", "0.00", "0.00", "0.00"]


def test_a_changed_field_is_marked_and_can_be_reset(page: Page) -> None:
    penalty = row(page, "repetition_penalty")
    penalty.locator("[type=number]").fill("1.3")
    assert "is-changed" in (penalty.get_attribute("class") or "")
    assert page.evaluate("() => changes.at(-1)") == {"repetition_penalty": 1.3}
    penalty.get_by_role("button", name="恢复默认").click()
    assert "is-changed" not in (penalty.get_attribute("class") or "")
    assert penalty.locator("[type=number]").input_value() == "1.1"
    assert values(page) == {}


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("temperature", "3"), ("repetition_penalty", "0"), ("n", "0"), ("num_beams", "99")],
)
def test_what_is_out_of_range_is_marked_and_not_sent(page: Page, name: str, wrong: str) -> None:
    box = row(page, name).locator("[type=number]")
    box.fill(wrong)
    expect(box).to_have_attribute("aria-invalid", "true")
    assert values(page) == {}


@pytest.mark.parametrize(
    ("name", "typed", "value"),
    [
        ("stop", "。\n\\n用户", ["。", "\n用户"]),
        ("stop_token_ids", "2, 13，5", [2, 13, 5]),
        ("logit_bias", "5: -100\n6：2.5", {"5": -100, "6": 2.5}),
        ("bad_words", "甲\n乙", ["甲", "乙"]),
        ("seed", "-7", -7),
    ],
)
def test_lists_maps_and_numbers_are_typed_as_text(
    page: Page, name: str, typed: str, value: Any
) -> None:
    page.locator("summary").click()
    row(page, name).locator("input, textarea").fill(typed)
    assert values(page) == {name: value}
    page.evaluate("() => panel.set(panel.values())")
    assert values(page) == {name: value}
    assert row(page, name).locator("input, textarea").input_value() == typed.replace(
        "，", ", "
    ).replace("：", ": ")
    row(page, name).locator("input, textarea").fill("")
    assert values(page) == {}


def test_switches_and_choices(page: Page) -> None:
    page.locator("summary").click()
    row(page, "do_sample").locator("input").uncheck()
    row(page, "early_stopping").locator("select").select_option("never")
    row(page, "truncation_side").locator("select").select_option("right")
    assert values(page) == {
        "do_sample": False,
        "early_stopping": "never",
        "truncation_side": "right",
    }
    row(page, "early_stopping").locator("select").select_option("true")
    assert values(page)["early_stopping"] is True


def test_an_answer_can_be_json_by_a_table_of_fields(page: Page) -> None:
    page.get_by_role("button", name="JSON").click()
    assert values(page) == {"response_format": {"type": "json_object"}}
    page.get_by_role("button", name="结构").click()
    page.get_by_label("名称").fill("city")
    page.get_by_role("button", name="加一行").click()
    page.get_by_label("名称").nth(1).fill("tags")
    page.get_by_label("类型").nth(1).select_option("string[]")
    page.get_by_label("必有").nth(1).uncheck()
    schema = {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "tags": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["city"],
    }
    wanted = {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema},
        }
    }
    assert values(page) == wanted
    reply = page.request.post(f"{page.url}v1/chat/completions", data={"messages": "x", **wanted})
    assert reply.ok, reply.text()
    page.evaluate("() => panel.set(panel.values())")
    assert page.get_by_label("名称").nth(1).input_value() == "tags"


def test_a_schema_can_be_written_as_it_is(page: Page) -> None:
    page.get_by_role("button", name="结构").click()
    page.get_by_role("button", name="看原文").click()
    area = page.locator(".format textarea")
    area.fill('{"type": "array"')
    expect(area).to_have_attribute("aria-invalid", "true")
    area.fill('{"type": "array", "items": {"type": "integer"}}')
    expect(area).to_have_attribute("aria-invalid", "false")
    schema = values(page)["response_format"]["json_schema"]["schema"]
    assert schema == {"type": "array", "items": {"type": "integer"}}
    expect(page.get_by_role("button", name="用表格写")).to_be_disabled()


def test_an_answer_can_be_one_of_some_texts(page: Page) -> None:
    page.get_by_role("button", name="选项").click()
    page.locator(".format textarea").fill("是\n否")
    assert values(page) == {"structured_outputs": {"choice": ["是", "否"]}}
    page.get_by_role("button", name="文本").click()
    assert values(page) == {}


def test_a_field_that_an_error_names_is_shown(page: Page) -> None:
    page.evaluate("() => panel.focusField('logit_bias.5')")
    expect(row(page, "logit_bias").locator("textarea")).to_be_focused()
    page.evaluate("() => panel.focusField('response_format.json_schema')")
    expect(page.locator(".format button").first).to_be_focused()


def test_the_language_changes_at_once_and_keeps_the_values(page: Page) -> None:
    row(page, "n").locator("[type=number]").fill("3")
    page.evaluate("() => setLanguage('en')")
    expect(row(page, "n")).to_contain_text("side by side")
    assert row(page, "n").locator("[type=number]").input_value() == "3"
