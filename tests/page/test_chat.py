"""Chats on the page: asking, stopping, branches, several answers, raw completions, and what goes wrong."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Route, expect

from generation import BeamsDelta, BeamState, Delta
from prompts.encoder import SentencePieceEncoder
from prompts.layouts import BASE_MODEL
from tests.support.app_on_fake_engine import listening
from tests.support.chat_page import Visit, sent
from tests.support.fake_engine import HUNDRED, FakeEngine
from tests.support.paths import CHROMIUM
from tests.support.polling import wait_for
from tests.support.server_process import Server

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed")

END = Delta(0, "", (2,), "stop")
THREE = [
    *(Delta(at, text, (5,)) for at, text in enumerate(("甲", "乙", "丙"))),
    *(Delta(at, "。", (6,), "stop") for at in range(3)),
]
SEARCH = [
    BeamsDelta(0, "", (), beams=[BeamState(text, -1.0 - at, None) for at, text in enumerate("北上广深")]),
    BeamsDelta(
        0, "", (), beams=[
            BeamState("广州", -0.75, None), BeamState("北京。", -0.25, "stop"), BeamState("上海。", -1.5, "stop"),
        ]
    ),
    *(Delta(at, text, (5, 2), "stop") for at, text in enumerate(("北京。", "上海。"))),
]  # fmt: skip

WATCH = """
() => {
  window.seen = [];
  const see = () => window.seen.push([...document.querySelectorAll(".choice")].map(
    (choice) => [...choice.children].slice(0, 2).map((part) => part.textContent)));
  new MutationObserver(see).observe(document.querySelector("#thread"), {subtree: true, childList: true});
}
"""
"""Keeps what stands in the columns whenever that changes."""


def test_an_answer_streams_into_the_thread(here: Visit, engine: FakeEngine) -> None:
    engine.script, engine.delay = HUNDRED, 0.01
    here.ask("写一百个字")
    expect(here.page.locator(".said")).to_have_text("写一百个字")
    expect(here.answer).to_have_text(re.compile("^字{3,60}$"))
    expect(here.page.locator("#announcement")).to_have_text("正在回答")
    here.wait_for_end()
    expect(here.answer).to_have_text("字" * 100)
    expect(here.page.locator("#announcement")).to_have_text("回答结束")
    expect(here.page.locator(".figures")).to_have_text(
        re.compile(r"101 词元 · 首词元 \d\.\d\d 秒 · [\d.]+ 词元/秒")
    )
    expect(here.page.locator("#gauge")).to_have_text(re.compile(r"\d+ / 2048"))
    assert here.page.title().startswith("写一百个字")


def test_only_what_was_changed_is_sent(here: Visit) -> None:
    with here.page.expect_request("**/v1/chat/completions") as asked:
        here.ask_to_the_end("首都？")
    assert sent(asked.value) == {
        "model": "chinese-llama-alpaca-2",
        "messages": [{"role": "user", "content": "首都？"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    here.set_parameters(temperature=0.7)
    with here.page.expect_request("**/v1/chat/completions") as asked:
        here.ask_to_the_end("再说")
    assert sent(asked.value)["temperature"] == 0.7
    assert [each["content"] for each in sent(asked.value)["messages"]] == [
        "首都？",
        "北京。",
        "再说",
    ]


@pytest.mark.parametrize("how", ["button", "Escape"])
def test_stopping_ends_the_engines_work_and_keeps_what_has_come(
    here: Visit, engine: FakeEngine, how: str
) -> None:
    engine.script, engine.delay = HUNDRED, 0.02
    here.ask("写一百个字")
    expect(here.answer).to_have_text(re.compile("字{5}"))
    if how == "button":
        here.page.locator("#send").click()
    else:
        here.page.keyboard.press("Escape")
    here.wait_for_end()
    assert wait_for(lambda: engine.running == 0, 2)
    text = here.answer.inner_text()
    assert 5 <= len(text) < 100
    here.page.wait_for_timeout(100)
    assert here.answer.inner_text() == text
    expect(here.page.locator(".figures")).to_contain_text("已停止")
    assert here.stored()[0]["messages"].popitem()[1]["content"] == text


@pytest.mark.engine
def test_stopping_ends_the_work_of_vllm(open_page: Callable[..., Visit], server: Server) -> None:
    there = open_page(server.url)
    there.wait_until_ready()
    there.set_parameters(max_tokens=1500)
    there.ask("给我讲一些有关杭州的故事吧")
    expect(there.answer).to_have_text(re.compile(".{4}"))
    there.page.keyboard.press("Escape")
    there.wait_for_end()

    def running() -> str:
        text = there.page.request.get(f"{server.url}/metrics").text()
        return "".join(re.findall(r"^vllm:num_requests_running\S* (\S+)$", text, re.MULTILINE))

    assert wait_for(lambda: float(running()) == 0, 5)


def test_examples_are_asked_by_a_click(here: Visit) -> None:
    expect(here.page.locator(".example")).to_have_count(4)
    here.page.locator(".example").first.click()
    here.wait_for_end()
    expect(here.page.locator("#welcome")).to_be_hidden()
    expect(here.page.locator(".said")).to_have_text("告诉我中国的首都在哪里")


def test_an_edited_question_is_asked_again_beside_the_first(
    here: Visit, engine: FakeEngine
) -> None:
    here.ask_to_the_end("首都？")
    engine.script = [Delta(0, "巴黎。", (5,)), END]
    here.act("edit", 0)
    here.page.locator(".message .editor").fill("法国首都？")
    here.page.get_by_role("button", name="保存并重问").click()
    expect(here.answer).to_have_text("巴黎。")
    here.wait_for_end()
    expect(here.page.locator(".place").first).to_have_text("2 / 2")
    here.act("previous", 0)
    expect(here.page.locator(".said")).to_have_text("首都？")
    expect(here.answer).to_have_text("北京。")
    here.act("next", 0)
    expect(here.answer).to_have_text("巴黎。")


def test_an_edited_answer_is_not_asked_again(here: Visit, engine: FakeEngine) -> None:
    here.ask_to_the_end("首都？")
    here.act("edit")
    here.page.locator(".message .editor").fill("是上海。")
    here.page.locator(".message .editor").press("Control+Enter")
    expect(here.answer).to_have_text("是上海。")
    expect(here.page.locator(".place")).to_have_text("2 / 2")
    assert len(engine.asked) == 1


def test_an_answer_is_made_again_and_continued(here: Visit, engine: FakeEngine) -> None:
    here.ask_to_the_end("首都？")
    engine.script = [Delta(0, "上海", (5,)), END]
    here.act("again")
    here.wait_for_end()
    expect(here.answer).to_have_text("上海")
    expect(here.page.locator(".place")).to_have_text("2 / 2")
    engine.script = [Delta(0, "滩。", (5,)), END]
    with here.page.expect_request("**/v1/chat/completions") as asked:
        here.act("continue")
    here.wait_for_end()
    expect(here.answer).to_have_text("上海滩。")
    assert sent(asked.value)["messages"][-1] == {"role": "assistant", "content": "上海"}


def test_a_deleted_branch_can_be_had_back(here: Visit) -> None:
    here.ask_to_the_end("首都？")
    here.ask_to_the_end("再说")
    here.act("delete", 2)
    expect(here.page.locator(".message")).to_have_count(2)
    here.page.get_by_role("button", name="撤销").click()
    expect(here.page.locator(".message")).to_have_count(4)


def test_a_branch_comes_back_to_its_own_chat_whatever_has_been_done_since(here: Visit) -> None:
    here.ask_to_the_end("一")
    here.ask_to_the_end("二")
    here.act("delete", 2)
    here.ask_to_the_end("三")
    here.page.locator("#new-chat").click()
    here.page.get_by_role("button", name="撤销").click()
    here.page.locator(".entry", has_text="一").click()
    expect(here.page.locator(".said")).to_have_text(["一", "二"])
    here.page.reload()
    here.wait_until_ready()
    expect(here.page.locator(".said")).to_have_text(["一", "二"])
    here.act("next", 2)
    expect(here.page.locator(".said")).to_have_text(["一", "三"])


def test_a_question_that_is_deleted_while_it_is_answered_stops_the_engine(
    here: Visit, engine: FakeEngine
) -> None:
    engine.script, engine.delay = HUNDRED, 0.05
    here.ask("写一百个字")
    expect(here.answer).to_have_text(re.compile("^字{2,}$"))
    here.act("delete", 0)
    assert wait_for(lambda: engine.running == 0, 2)
    here.page.get_by_role("button", name="撤销").click()
    expect(here.answer).to_have_text(re.compile("^字{2,}$"))
    here.wait_for_end()


def test_a_rival_is_gone_on_from_beside_the_answer(here: Visit, engine: FakeEngine) -> None:
    here.ask_to_the_end("首都？")
    here.act("chance")
    here.page.locator(".scored-token").first.click()
    rival = here.page.locator("button.rival").first
    token = re.search("“(.*)”", rival.get_attribute("title") or "")
    assert token
    with here.page.expect_request("**/v1/chat/completions") as asked:
        rival.click()
    begun = sent(asked.value)["messages"]
    assert [each["role"] for each in begun] == ["user", "assistant"]
    assert begun[1]["content"] == token[1].replace("▁", " ")
    expect(here.answer).to_have_text(re.compile("北京。$"))
    expect(here.page.locator(".place")).to_have_text("2 / 2")
    here.wait_for_end()


def test_answers_stand_side_by_side_and_one_is_chosen(here: Visit, engine: FakeEngine) -> None:
    engine.script = THREE
    here.set_parameters(n=3)
    here.ask_to_the_end("说一个字")
    expect(here.page.locator(".choice > div")).to_have_text(["甲。", "乙。", "丙。"])
    boxes = [box.bounding_box() for box in here.page.locator(".choice").all()]
    assert len({box["y"] for box in boxes if box}) == 1
    here.page.get_by_role("button", name="用这个").nth(1).click()
    expect(here.answer).to_have_text("乙。")
    expect(here.page.locator(".choice")).to_have_count(0)
    expect(here.page.locator(".place")).to_have_text("1 / 3")
    here.act("next")
    expect(here.answer).to_have_text("甲。")


def test_beams_are_seen_while_they_run_and_ranked_in_the_end(
    here: Visit, engine: FakeEngine
) -> None:
    engine.script, engine.delay = SEARCH, 0.1
    here.set_parameters(num_beams=4, n=2)
    here.page.evaluate(WATCH)
    with here.page.expect_request("**/v1/chat/completions") as asked:
        here.ask("首都？")
    assert sent(asked.value)["stream_options"] == {"include_usage": True, "include_beams": True}
    here.wait_for_end()
    seen = here.page.evaluate("() => window.seen")
    running = [[f"{at + 1} · {-1.0 - at:.3f} · 进行中", text] for at, text in enumerate("北上广深")]
    assert running in seen
    ending = [
        ["1 · -0.750 · 进行中", "广州"],
        ["2 · -0.250 · 完成", "北京。"],
        ["3 · -1.500 · 完成", "上海。"],
    ]
    assert ending in seen[seen.index(running) :]
    expect(here.page.locator(".choice > div")).to_have_text(["北京。", "上海。"])
    expect(here.page.locator(".choice-head")).to_have_text(
        ["1 · -0.250 · 完成", "2 · -1.500 · 完成"]
    )


def test_the_beam_that_lost_stays_beside_a_single_answer(here: Visit, engine: FakeEngine) -> None:
    engine.script = SEARCH[:3]
    here.set_parameters(num_beams=4)
    here.ask_to_the_end("首都？")
    expect(here.page.locator(".choice > div")).to_have_text(["北京。", "上海。"])


def test_fields_without_effect_are_named_under_the_answer(here: Visit) -> None:
    here.set_parameters(temperature=0, top_p=0.5)
    here.ask_to_the_end("首都？")
    expect(here.page.locator(".figures")).to_contain_text("没有起作用的参数：top_p")


def test_a_wrong_field_is_a_link_to_it(here: Visit) -> None:
    here.may_fail = True
    here.page.route("**/v1/chat/completions", lambda route: route.fulfill(
        status=400, headers={"X-Request-Id": "req-7"},
        json={"error": {"message": "temperature is out of range.", "type": "x", "param": "temperature", "code": None}},
    ))  # fmt: skip
    here.ask_to_the_end("首都？")
    shown = here.page.locator(".message-error")
    expect(shown).to_contain_text("temperature is out of range.")
    expect(shown).to_contain_text("请求编号 req-7")
    shown.get_by_role("button", name="temperature").click()
    assert (
        here.page.evaluate("() => document.activeElement.closest('[data-field]').dataset.field")
        == "temperature"
    )
    here.page.unroute_all()
    shown.get_by_role("button", name="再试").click()
    here.wait_for_end()
    expect(here.answer).to_have_text("北京。")
    expect(here.page.locator(".message")).to_have_count(2)


def test_a_chat_that_is_too_long_goes_on_without_its_oldest_turns(
    here: Visit, engine: FakeEngine
) -> None:
    here.may_fail = True
    long = "很长的问题。" * 260
    here.ask_to_the_end(long)
    here.ask_to_the_end("二")
    here.ask_to_the_end(long)
    expect(here.page.locator(".message-error")).to_contain_text("对话太长")
    here.page.get_by_role("button", name="去掉最早的几轮").click()
    expect(here.answers.last.locator(".message-body")).to_have_text("北京。")
    here.wait_for_end()
    assert here.page.locator(".said").all_inner_texts()[0] == "二"
    expect(here.page.locator(".place").first).to_have_text("2 / 2")


def test_a_full_server_is_asked_again_when_it_said(here: Visit, engine: FakeEngine) -> None:
    here.may_fail = True
    engine.room = 0
    here.ask("首都？")
    expect(here.page.locator(".message-error")).to_contain_text("服务器满了")
    expect(here.page.get_by_role("button", name="再试（")).to_be_visible()
    engine.room = 8
    expect(here.answer).to_have_text("北京。")
    expect(here.page.locator(".message-error")).to_have_count(0)
    here.wait_for_end()


def test_a_server_that_stays_full_is_not_asked_for_ever(here: Visit) -> None:
    here.may_fail = True
    asked: list[str] = []

    def refuse(route: Route) -> None:
        asked.append(route.request.url)
        route.fulfill(
            status=503, headers={"Retry-After": "0.1"},
            json={"error": {"message": "full", "type": "x", "param": None, "code": "server_overloaded"}},
        )  # fmt: skip

    here.page.route("**/v1/chat/completions", refuse)
    here.ask("首都？")
    again = here.page.locator(".message-error").get_by_role("button")
    for _ in range(100):
        here.page.wait_for_timeout(100)
        if len(asked) == 6:
            break
    here.page.wait_for_timeout(800)
    expect(again).to_have_text("再试")
    assert len(asked) == 6
    here.page.unroute_all()
    again.click()
    expect(here.answer).to_have_text("北京。")
    here.wait_for_end()


def test_what_is_sent_while_the_model_loads_is_asked_then(
    open_page: Callable[..., Visit], engine: FakeEngine
) -> None:
    engine.is_ready = False
    here = open_page()
    here.may_fail = True
    expect(here.page.locator("#state")).to_contain_text("模型正在加载")
    here.ask("首都？")
    expect(here.answer).to_contain_text("加载完就发送")
    assert engine.asked == []
    engine.is_ready = True
    expect(here.answer).to_have_text("北京。")
    here.wait_until_ready()
    here.wait_for_end()


def test_a_server_that_was_started_again_is_waited_for(here: Visit, engine: FakeEngine) -> None:
    here.may_fail = True
    here.ask_to_the_end("首都？")
    engine.is_ready = False
    here.ask("再说")
    expect(here.page.locator("#state")).to_contain_text("模型正在加载")
    here.page.wait_for_timeout(7_000)  # longer than a full server is asked again
    engine.is_ready = True
    expect(here.answer).to_have_text("北京。")
    here.wait_until_ready()
    here.wait_for_end()
    expect(here.answers).to_have_count(2)


def test_a_server_that_is_gone_comes_back(here: Visit) -> None:
    here.ask_to_the_end("首都？")
    here.may_fail = True
    here.context.set_offline(True)
    here.ask_to_the_end("再说")
    expect(here.page.locator("#state")).to_contain_text("连不上服务器")
    expect(here.page.locator(".message-error")).to_contain_text("问题还在")
    expect(here.answers.first.locator(".message-body")).to_have_text("北京。")
    here.context.set_offline(False)
    here.page.locator("#state").get_by_role("button").click()
    here.wait_until_ready()
    here.page.get_by_role("button", name="再试").click()
    here.wait_for_end()
    expect(here.answer).to_have_text("北京。")


def test_a_stream_that_breaks_off_keeps_its_text(here: Visit, engine: FakeEngine) -> None:
    engine.script = [Delta(0, "北", (5,)), ValueError("it broke")]
    here.ask_to_the_end("首都？")
    expect(here.answer).to_have_text("北")
    expect(here.page.locator(".message-error")).to_be_visible()


def test_a_key_is_asked_for_and_kept_out_of_everything(
    open_guarded: Callable[[str], Visit],
) -> None:
    here = open_guarded("right")
    dialog = here.page.locator("#key-dialog")
    for key, told in (("wrong", "不认识"), ("right", "")):
        expect(dialog).to_be_visible()
        here.page.locator("#key").fill(key)
        here.page.locator("#key").press("Enter")
        if told:
            expect(here.page.locator("#key-error")).to_contain_text(told)
    expect(dialog).to_be_hidden()
    here.wait_until_ready()
    here.ask_to_the_end("首都？")
    expect(here.answer).to_have_text("北京。")
    assert here.page.evaluate("() => Object.values(localStorage)").count("right") == 0
    here.act("request")
    expect(here.page.locator(".request-code")).to_contain_text("$VLLM_API_KEY")
    assert "right" not in here.page.locator(".request-code").inner_text()
    with here.page.expect_download() as exported:
        here.page.locator("#export").click()
    assert "right" not in Path(exported.value.path()).read_text(encoding="utf-8")
    here.page.reload()
    here.wait_until_ready()
    assert "right" not in str(here.stored())


def test_a_key_may_have_any_letters_and_is_remembered_where_that_is_ticked(
    open_guarded: Callable[[str], Visit],
) -> None:
    here = open_guarded("密钥”1")
    here.page.locator("#key").fill("密钥”1")
    here.page.locator("#remember-key").check()
    here.page.locator("#key").press("Enter")
    here.wait_until_ready()
    other = here.new_tab()
    expect(other.locator("#gauge")).to_be_visible()
    expect(other.locator("#key-dialog")).to_be_hidden()


def test_a_key_that_is_put_off_is_not_asked_for_at_each_letter(
    open_guarded: Callable[[str], Visit],
) -> None:
    here = open_guarded("right")
    dialog = here.page.locator("#key-dialog")
    dialog.get_by_role("button", name="取消").click()
    here.question.press_sequentially("首都")
    here.page.wait_for_timeout(500)
    expect(dialog).to_be_hidden()
    here.question.press("Enter")
    expect(dialog).to_be_visible()
    here.wait_for_end()


def test_a_raw_text_is_gone_on_with_and_taken_back(here: Visit, engine: FakeEngine) -> None:
    here.page.locator("#new-completion").click()
    editor = here.page.locator("#raw-text")
    editor.fill("中国的首都是")
    with here.page.expect_request("**/v1/completions") as asked:
        editor.press("Control+Enter")
    expect(editor).to_have_value("中国的首都是北京。")
    here.wait_for_end_of_run()
    assert sent(asked.value)["prompt"] == "中国的首都是"
    assert sent(asked.value)["raw"] is True
    expect(here.page.locator(".by-user")).to_have_text("中国的首都是")
    expect(here.page.locator(".by-assistant")).to_have_text("北京。")
    editor.press("End")
    editor.press_sequentially("法国的呢")
    expect(here.page.locator(".by-user")).to_have_text(["中国的首都是", "法国的呢"])
    editor.press("Control+Enter")
    expect(editor).to_have_value("中国的首都是北京。法国的呢北京。")
    here.wait_for_end_of_run()
    here.page.locator("#raw-undo").click()
    expect(editor).to_have_value("中国的首都是北京。法国的呢")
    here.page.locator("#raw-undo").click()
    expect(editor).to_have_value("中国的首都是")
    expect(here.page.locator("#raw-undo")).to_be_disabled()


def test_a_raw_text_is_followed_while_it_grows(here: Visit, engine: FakeEngine) -> None:
    engine.script = [*(Delta(0, f"第{line}行\n", (5,)) for line in range(80)), END]
    engine.delay = 0.01
    here.page.locator("#new-completion").click()
    here.page.locator("#raw-text").fill("从头数：\n")
    here.page.locator("#raw-text").press("Control+Enter")
    expect(here.page.locator(".by-assistant")).to_contain_text("第60行")
    here.wait_until_at_end()
    here.wait_for_end_of_run()
    here.page.locator("#raw-tools").get_by_role("button", name="请求").click()
    expect(here.page.locator(".request-code")).to_contain_text("v1/completions")


def test_what_goes_wrong_with_a_raw_text_is_said_in_full(here: Visit, engine: FakeEngine) -> None:
    here.may_fail = True
    here.page.locator("#new-completion").click()
    here.page.locator("#raw-text").fill("很长的开头。" * 900)
    here.page.locator("#raw-text").press("Control+Enter")
    shown = here.page.locator("#raw-figures .message-error")
    expect(shown).to_contain_text("对话太长")
    expect(shown).to_contain_text("请求编号")
    here.page.locator("#raw-text").fill("很短的开头，")
    here.page.locator("#raw-text").press("Control+Enter")
    expect(here.page.locator("#raw-text")).to_have_value("很短的开头，北京。")
    here.wait_for_end_of_run()


def test_a_model_without_a_template_is_there_for_raw_texts(
    open_page: Callable[..., Visit], demo_encoder: SentencePieceEncoder
) -> None:
    with listening(FakeEngine(), demo_encoder, layout=BASE_MODEL) as url:
        here = open_page(url)
        here.may_fail = True
        expect(here.page.locator("#model")).to_have_text("chinese-llama-alpaca-2")
        here.page.locator("#new-completion").click()
        here.page.locator("#raw-text").fill("中国的首都是")
        here.page.locator("#raw-text").press("Control+Enter")
        expect(here.page.locator("#raw-text")).to_have_value("中国的首都是北京。")
        here.wait_for_end_of_run()


def test_the_system_prompt_is_the_readers_or_the_servers(here: Visit) -> None:
    here.page.locator("#system summary").click()
    field = here.page.locator("#system-text")
    assert "You are a helpful assistant" in str(field.get_attribute("placeholder"))
    field.fill("只说一个字。")
    with here.page.expect_request("**/v1/chat/completions") as asked:
        here.ask_to_the_end("首都？")
    assert sent(asked.value)["messages"][0] == {"role": "system", "content": "只说一个字。"}


def test_the_view_follows_the_end_unless_one_reads(here: Visit, engine: FakeEngine) -> None:
    engine.script = [*(Delta(0, f"第{line}行\n\n", (5,)) for line in range(150)), END]
    engine.delay = 0.012
    here.ask("写很多行")
    scroller = here.page.locator("#scroller")
    expect(here.answer).to_contain_text("第40行")
    here.wait_until_at_end()
    scroller.hover()
    here.page.mouse.wheel(0, -150)
    here.page.wait_for_timeout(100)
    top = scroller.evaluate("(box) => box.scrollTop")
    expect(here.answer).to_contain_text("第90行")
    assert scroller.evaluate("(box) => box.scrollTop") == top
    here.page.locator("#latest").click()
    here.wait_until_at_end()
    expect(here.answer).to_contain_text("第149行")
    here.wait_for_end()
    here.wait_until_at_end()
    expect(here.page.locator("#latest")).to_be_hidden()


def test_nothing_moves_at_the_end_of_an_answer(here: Visit, engine: FakeEngine) -> None:
    """Nor while one reads: from the last token on, the text stays where it is."""
    engine.script = [*(Delta(0, f"第{line}行\n\n", (5,)) for line in range(60)), END]
    here.ask_to_the_end("写很多行")
    engine.delay = 0.02
    here.ask("再写")
    body = here.answers.last.locator("p", has_text="第59行")
    expect(body).to_be_visible()
    places = here.page.evaluate(
        """async () => {
          const places = new Set();
          for (let frame = 0; frame < 40; frame += 1) {
            await new Promise(requestAnimationFrame);
            places.add(Math.round([...document.querySelectorAll(".message p")].at(-1).getBoundingClientRect().top));
          }
          return [...places];
        }"""
    )
    here.wait_for_end()
    assert len(places) == 1


def test_a_long_chat_opens_at_its_end(here: Visit, engine: FakeEngine) -> None:
    engine.script = [*(Delta(0, f"第{line}行\n\n", (5,)) for line in range(80)), END]
    for text in ("一", "二", "三", "四"):
        here.ask_to_the_end(text)
    here.page.reload()
    here.wait_until_ready()
    here.wait_until_at_end()
    expect(here.answers.last.locator("p", has_text="第79行")).to_be_in_viewport()


def test_several_tabs_are_equal(here: Visit) -> None:
    here.ask_to_the_end("首都？")
    other = here.new_tab()
    expect(other.locator(".entry")).to_have_text("首都？")
    other.locator(".entry").click()
    here.ask_to_the_end("再说")
    expect(other.locator(".said")).to_have_text(["首都？", "再说"])
