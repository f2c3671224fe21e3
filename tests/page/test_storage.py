"""What stays: chats over reloads, in files, and in all tabs; and what a file must be to be taken."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.support.chat_page import Visit
from tests.support.fake_engine import HUNDRED, FakeEngine
from tests.support.paths import CHROMIUM
from tests.support.polling import wait_for

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed")

FORMAT = "chinese-llama-alpaca-2 conversations"
WIPE = """
() => new Promise((resolve) => {
  const opening = indexedDB.open("alpaca-page", 1);
  opening.onsuccess = () => {
    const store = opening.result.transaction("conversations", "readwrite").objectStore("conversations");
    store.clear().onsuccess = () => { opening.result.close(); resolve(); };
  };
})
"""


def question(**changes: Any) -> dict[str, Any]:
    message = {"id": "m", "parent": None, "role": "user", "content": "从文件来", "created": 1}
    return {
        "id": "c", "mode": "chat", "title": "从文件来", "created": 1, "changed": 1, "system": "", "params": {},
        "leaf": "m", "messages": {"m": message}, **changes,
    }  # fmt: skip


def take(here: Visit, content: Any, folder: Path) -> None:
    """Import a file with that content."""
    file = folder / "conversations.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    here.page.locator("#import-file").set_input_files(file)


def test_chats_with_their_branches_are_there_after_a_reload(
    here: Visit, engine: FakeEngine
) -> None:
    here.ask_to_the_end("首都？")
    here.act("again")
    here.wait_for_end()
    here.act("previous")
    here.page.reload()
    expect(here.answer).to_have_text("北京。")
    expect(here.page.locator(".place")).to_have_text("1 / 2")
    expect(here.page.locator(".entry")).to_have_text("首都？")
    here.wait_until_ready()


def test_what_has_come_of_an_answer_is_there_after_a_reload(
    here: Visit, engine: FakeEngine
) -> None:
    engine.script, engine.delay = HUNDRED, 0.02
    here.ask("写一百个字")
    expect(here.answer).to_have_text(re.compile("字{10}"))
    here.page.reload()
    expect(here.answer).to_have_text(re.compile("字{10}"))
    here.wait_until_ready()


def test_nothing_is_kept_that_nobody_asked_to_keep(here: Visit) -> None:
    here.ask_to_the_end("首都？")
    here.act("chance")
    expect(here.page.locator(".scored-sum")).to_be_visible()
    [kept] = here.stored()
    assert set(kept) == {
        "id",
        "mode",
        "title",
        "created",
        "changed",
        "system",
        "params",
        "leaf",
        "messages",
    }
    assert "logprob" not in json.dumps(kept)
    assert all(
        set(message) <= {
            "id", "parent", "role", "content", "created", "choices", "request", "usage", "timing", "finish", "error",
        }
        for message in kept["messages"].values()
    )  # fmt: skip


def test_parameters_belong_to_their_chat(here: Visit) -> None:
    here.set_parameters(temperature=0.7)
    here.ask_to_the_end("首都？")
    here.page.locator("#new-chat").click()
    here.set_parameters(temperature=0.1)
    here.ask_to_the_end("另一个")
    here.page.locator(".entry", has_text="首都？").click()
    expect(here.page.locator('[data-field="temperature"] input[type="number"]')).to_have_value(
        "0.7"
    )


def test_a_file_brings_everything_back(here: Visit) -> None:
    here.ask_to_the_end("首都？")
    here.page.locator("#new-chat").click()
    here.ask_to_the_end("第二个")
    with here.page.expect_download() as saved:
        here.page.locator("#export").click()
    content = Path(saved.value.path()).read_text(encoding="utf-8")
    written = json.loads(content)
    assert (written["format"], written["version"]) == (FORMAT, 1)
    assert len(written["conversations"]) == 2
    before = here.stored()
    here.page.evaluate(WIPE)
    here.page.reload()
    expect(here.page.locator(".entry")).to_have_count(0)
    here.page.locator("#import-file").set_input_files(saved.value.path())
    expect(here.page.locator(".entry")).to_have_count(2)
    by_id = {each["id"]: each for each in here.stored()}
    assert by_id == {each["id"]: each for each in before}
    here.page.locator(".entry", has_text="首都？").click()
    expect(here.answer).to_have_text("北京。")
    here.wait_until_ready()


def test_of_two_with_one_id_the_newer_is_kept(here: Visit, tmp_path: Path) -> None:
    for changed, title in ((5, "五"), (3, "三"), (7, "七")):
        take(
            here,
            {
                "format": FORMAT,
                "version": 1,
                "conversations": [question(changed=changed, title=title)],
            },
            tmp_path,
        )
        expect(here.page.locator(".entry")).to_have_text({5: "五", 3: "五", 7: "七"}[changed])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("no json", "不是本页导出的文件"),
        ({"conversations": []}, "不是本页导出的文件"),
        ({"format": FORMAT, "version": 2, "conversations": []}, "另一个版本"),
        ({"format": FORMAT, "version": 1, "conversations": [question(), question(messages=[])]}, "损坏"),
        ({"format": FORMAT, "version": 1, "conversations": [question(leaf="elsewhere")]}, "损坏"),
        (
            {"format": FORMAT, "version": 1, "conversations": [question(messages={
                "m": {"id": "m", "parent": "m", "role": "user", "content": "a", "created": 1},
            })]},
            "损坏",
        ),
        (
            {"format": FORMAT, "version": 1, "conversations": [question(messages={
                "m": {"id": "m", "parent": None, "role": "user", "content": {}, "created": 1},
            })]},
            "损坏",
        ),
    ],
    ids=["text", "foreign", "version", "list", "leaf", "circle", "content"],
)  # fmt: skip
def test_another_file_is_refused_with_a_sentence(
    here: Visit, tmp_path: Path, content: Any, told: str
) -> None:
    take(here, content, tmp_path)
    expect(here.page.locator("#notice")).to_contain_text(told)
    assert here.stored() == []


def test_a_chat_is_saved_as_markdown(here: Visit) -> None:
    here.ask_to_the_end("首都？")
    with here.page.expect_download() as saved:
        here.page.locator("#save-markdown").click()
    text = Path(saved.value.path()).read_text(encoding="utf-8")
    assert text == "# 首都？\n\n## 我\n\n首都？\n\n## 模型\n\n北京。\n"
    assert saved.value.suggested_filename == "首都？.md"


def test_chats_are_found_renamed_and_deleted(here: Visit) -> None:
    here.ask_to_the_end("首都？")
    here.page.locator("#new-chat").click()
    here.ask_to_the_end("第二个")
    here.page.locator("#search").fill("第二")
    expect(here.page.locator(".entry")).to_have_text("第二个")
    here.page.locator("#search").fill("北京")
    expect(here.page.locator(".entry")).to_have_count(2)
    here.page.locator("#search").fill("没有")
    expect(here.page.locator("#chat-list")).to_have_text("没有找到。")
    here.page.locator("#search").fill("")
    entry = here.page.locator("#chat-list li", has_text="首都？")
    entry.hover()
    entry.get_by_role("button", name="删除").click()
    expect(here.page.locator(".entry")).to_have_text("第二个")
    here.page.get_by_role("button", name="撤销").click()
    expect(here.page.locator(".entry")).to_have_count(2)


@pytest.mark.parametrize("is_other_tab", [False, True])
def test_a_chat_that_is_deleted_while_it_is_answered_stays_deleted(
    here: Visit, engine: FakeEngine, is_other_tab: bool
) -> None:
    engine.script, engine.delay = HUNDRED, 0.05
    here.ask("写一百个字")
    expect(here.answer).to_have_text(re.compile("^字{2,}$"))
    page = here.new_tab() if is_other_tab else here.page
    entry = page.locator("#chat-list li", has_text="写一百个字")
    entry.hover()
    entry.get_by_role("button", name="删除").click()
    expect(here.page.locator("#welcome")).to_be_visible()
    assert wait_for(lambda: engine.running == 0, 2)
    here.page.wait_for_timeout(300)
    expect(here.page.locator(".entry")).to_have_count(0)
    assert here.stored() == []


def test_a_title_can_be_written_while_an_answer_comes(here: Visit, engine: FakeEngine) -> None:
    """Each save of a chat draws the list anew, every two seconds."""
    engine.script, engine.delay = HUNDRED, 0.03
    here.ask("写一百个字")
    entry = here.page.locator("#chat-list li")
    entry.hover()
    entry.get_by_role("button", name="改名").click()
    here.page.keyboard.press("Control+A")
    here.page.keyboard.type("一百")
    expect(here.answer).to_have_text("字" * 100)
    here.wait_for_end()
    here.page.keyboard.type("个字")
    here.page.keyboard.press("Enter")
    expect(here.page.locator(".entry")).to_have_text("一百个字")
    assert here.stored()[0]["title"] == "一百个字"


def test_a_newer_copy_of_the_chat_that_is_shown_is_gone_on_with(
    here: Visit, tmp_path: Path
) -> None:
    here.ask_to_the_end("首都？")
    (kept,) = here.stored()
    newer = {**kept, "changed": kept["changed"] + 60_000, "title": "从文件来"}
    take(here, {"format": FORMAT, "version": 1, "conversations": [newer]}, tmp_path)
    expect(here.page.locator(".entry")).to_have_text("从文件来")
    here.ask_to_the_end("再说")
    assert here.stored()[0]["title"] == "从文件来"
    assert len(here.stored()[0]["messages"]) == 4


def test_what_was_typed_just_now_is_kept(here: Visit) -> None:
    here.page.locator("#new-completion").click()
    here.page.locator("#raw-text").fill("第一段")
    here.page.locator("#new-chat").click()
    here.page.locator("#new-completion").click()
    here.page.locator("#raw-text").fill("第二段")
    here.page.reload()
    expect(here.page.locator(".entry")).to_have_text(["第二段", "第一段"])


def test_other_tabs_follow(here: Visit) -> None:
    here.ask_to_the_end("首都？")
    other = here.new_tab()
    other.locator(".entry").click()
    here.ask_to_the_end("再说")
    expect(other.locator(".said")).to_have_text(["首都？", "再说"])
    entry = other.locator("#chat-list li")
    entry.hover()
    entry.get_by_role("button", name="删除").click()
    expect(here.page.locator(".entry")).to_have_count(0)
    expect(here.page.locator("#welcome")).to_be_visible()
