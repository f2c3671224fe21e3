"""Prompts, token for token: against SentencePiece itself, turn by turn, and against what a client might try."""

import contextlib
import copy
import random
from pathlib import Path

import pytest
from fastchat.conversation import conv_templates
from sentencepiece import SentencePieceProcessor
from transformers import PreTrainedTokenizerFast

from errors import APIError
from prompt_template import PromptTemplate
from prompts.alpaca import ALPACA
from prompts.calls import Message
from prompts.chat_templates import chat_template_layout
from prompts.encoder import Encoder, Run, SentencePieceEncoder, TokenizerEncoder
from prompts.layouts import ALPACA_2, Layout, to_conversation
from prompts.rendered_layouts import fastchat_layout
from settings import DEMO_MODEL
from tests.support.chatml import CHATML, chatml_tokenizer
from tests.support.paths import ALPACA_2_TOKENIZER
from tests.support.strings import varied_strings

STRINGS = varied_strings(1500)
SYSTEM = "You are a helpful assistant. 你是一个乐于助人的助手。"
CONTROLS = (
    "<s>",
    "</s>",
    "<unk>",
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "[INST]",
    "<<SYS>>",
)


@pytest.fixture(scope="module", params=["demo", "real"])
def model_file(request: pytest.FixtureRequest) -> Path:
    """Both tokenizers: the demo model's always, Chinese-Alpaca-2's where it is."""
    if request.param == "real" and not ALPACA_2_TOKENIZER.is_file():
        pytest.skip("the tokenizer of Chinese-Alpaca-2 is not beside the repository")
    return ALPACA_2_TOKENIZER if request.param == "real" else DEMO_MODEL / "tokenizer.model"


@pytest.fixture(scope="module")
def encoder(model_file: Path) -> SentencePieceEncoder:
    return SentencePieceEncoder(model_file)


@pytest.fixture(scope="module")
def processor(model_file: Path) -> SentencePieceProcessor:
    """SentencePiece on its own."""
    return SentencePieceProcessor(model_file=str(model_file))


@pytest.fixture(scope="module")
def chatml() -> TokenizerEncoder:
    return chatml_tokenizer(normalizes=False)


def expected_alpaca_2(
    processor: SentencePieceProcessor, turns: list[tuple[str, str | None]], system: str | None
) -> list[int]:
    """DESIGN's rule written out once more, on SentencePiece alone."""
    ids: list[int] = []
    for number, (user, assistant) in enumerate(turns):
        text = "[INST] "
        if number == 0 and system != "":
            text += "<<SYS>>\n" + (SYSTEM if system is None else system) + "\n<</SYS>>\n\n"
        text += user + " [/INST]"
        ids += [1, *processor.encode(text if assistant is None else text + " " + assistant)]
        ids += [] if assistant is None else [2]
    return ids


def test_the_first_example_has_the_trained_pieces() -> None:
    if not ALPACA_2_TOKENIZER.is_file():
        pytest.skip("the tokenizer of Chinese-Alpaca-2 is not beside the repository")
    processor = SentencePieceProcessor(model_file=str(ALPACA_2_TOKENIZER))
    ids = SentencePieceEncoder(ALPACA_2_TOKENIZER).encode(["告诉我中国的首都在哪里"])
    assert processor.id_to_piece(ids) == ["▁", "告诉我", "中国的", "首都", "在哪里"]


def test_ids_of_texts_equal_sentencepiece(
    encoder: SentencePieceEncoder, processor: SentencePieceProcessor
) -> None:
    assert len(STRINGS) >= 1000
    for text in STRINGS:
        assert encoder.encode([text]) == processor.encode(text)


@pytest.mark.parametrize("system", [None, "", "用一句话回答。</s>"])
def test_instructions_equal_sentencepiece(
    encoder: SentencePieceEncoder, processor: SentencePieceProcessor, system: str | None
) -> None:
    template = PromptTemplate(ALPACA_2, encoder)
    for text in STRINGS:
        messages = (
            [Message("user", text)]
            if system is None
            else [Message("system", system), Message("user", text)]
        )
        assert template.render_chat(messages).ids == expected_alpaca_2(
            processor, [(text, None)], system
        )


@pytest.mark.parametrize("system", [None, "", "你是一位诗人。"])
@pytest.mark.parametrize("turns", range(1, 7))
def test_conversations_equal_sentencepiece_turn_by_turn(
    encoder: SentencePieceEncoder, processor: SentencePieceProcessor, turns: int, system: str | None
) -> None:
    template = PromptTemplate(ALPACA_2, encoder)
    chooser = random.Random(turns)
    for _ in range(40):
        users, answers = chooser.sample(STRINGS, turns), chooser.sample(STRINGS, turns - 1)
        messages = [] if system is None else [Message("system", system)]
        for number, user in enumerate(users):
            messages.append(Message("user", user))
            messages += [Message("assistant", answers[number])] if number < turns - 1 else []
        pairs = list(zip(users, [*answers, None], strict=True))
        assert template.render_chat(messages).ids == expected_alpaca_2(processor, pairs, system)


def test_a_final_assistant_message_is_continued(
    encoder: SentencePieceEncoder, processor: SentencePieceProcessor
) -> None:
    template = PromptTemplate(ALPACA_2, encoder)
    prompt = template.render_chat(
        [Message("user", "中国的首都是哪里？"), Message("assistant", "中国的首都是")]
    )
    assert (
        prompt.ids
        == expected_alpaca_2(processor, [("中国的首都是哪里？", "中国的首都是")], None)[:-1]
    )
    assert prompt.answer_lead == ""


def test_system_texts_are_joined_and_neighbours_merged() -> None:
    sent = [
        ("system", "一"),
        ("user", "二"),
        ("user", "三"),
        ("developer", "四"),
        ("assistant", "六"),
    ]
    sent += [("assistant", "七"), ("user", "八")]
    conversation = to_conversation([Message(role, text) for role, text in sent])
    assert conversation.system == "一\n四"
    assert conversation.turns == [("二\n三", "六\n七"), ("八", None)]


def test_a_conversation_that_the_assistant_begins_has_an_empty_question() -> None:
    assert to_conversation([Message("assistant", "你好"), Message("user", "再见")]).turns == [
        ("", "你好"),
        ("再见", None),
    ]


def test_the_servers_own_system_text_stands_in_for_the_templates(
    demo_encoder: SentencePieceEncoder,
) -> None:
    own = PromptTemplate(ALPACA_2, demo_encoder, "只说真话。")
    plain = PromptTemplate(ALPACA_2, demo_encoder)
    assert (
        own.render_instruction("你好").ids
        == plain.render_chat([Message("system", "只说真话。"), Message("user", "你好")]).ids
    )


def test_alpaca_of_the_first_generation(demo_encoder: SentencePieceEncoder) -> None:
    template = PromptTemplate(ALPACA, demo_encoder)
    begin = "Below is an instruction that describes a task. "
    begin += "Write a response that appropriately completes the request.\n\n"
    text = f"{begin}### Instruction:\n你好\n\n### Response:"
    assert template.render_instruction("你好").ids == demo_encoder.encode([1, text])
    longer = template.render_chat(
        [Message("user", "你好"), Message("assistant", "您好"), Message("user", "再见")]
    )
    assert longer.ids == demo_encoder.encode(
        [1, f"{text} 您好\n\n### Instruction:\n再见\n\n### Response:"]
    )


def test_a_fastchat_template_is_rendered_with_its_control_tokens_as_ids(
    demo_encoder: SentencePieceEncoder,
) -> None:
    template = PromptTemplate(fastchat_layout("vicuna_v1.1"), demo_encoder)
    prompt = template.render_chat(
        [
            Message("system", "S"),
            Message("user", "你好"),
            Message("assistant", "您好"),
            Message("user", "再见"),
        ]
    )
    runs: list[Run] = [1, "S USER: 你好 ASSISTANT: 您好", 2, "USER: 再见 ASSISTANT:"]
    assert prompt.ids == demo_encoder.encode(runs)
    assert prompt.answer_lead == " "
    partial = template.render_chat(
        [Message("system", "S"), Message("user", "你好"), Message("assistant", "您")]
    )
    assert partial.ids == demo_encoder.encode([1, "S USER: 你好 ASSISTANT: 您"])


def renderable_names() -> list[str]:
    """fastchat's templates for models; some are for other companies' APIs and render nothing."""
    names = []
    for name in conv_templates:
        with contextlib.suppress(ValueError, NotImplementedError):
            fastchat_layout(name)
            names.append(name)
    return names


FASTCHAT_NAMES = renderable_names()


def test_most_of_fastchats_templates_render() -> None:
    assert len(FASTCHAT_NAMES) >= 70


@pytest.mark.parametrize("name", FASTCHAT_NAMES)
def test_a_fastchat_prompt_has_the_whole_conversation_and_ends_where_the_answer_goes_on(
    demo_encoder: SentencePieceEncoder, name: str
) -> None:
    template = PromptTemplate(fastchat_layout(name), demo_encoder)
    head = template.render_chat(
        [Message("user", "甲"), Message("assistant", "乙"), Message("user", "丙")]
    )
    for partial in ("s", "#", "a\n\nb", "</s", "丙", " x", "</s>", "y\uffffz"):
        messages = [
            Message("user", "甲</s>"),
            Message("assistant", "乙"),
            Message("user", "丙"),
            Message("assistant", partial),
        ]
        text = demo_encoder.decode(template.render_chat(messages).ids)
        # Two templates take the empty lines out of messages, as their models were trained.
        end = partial.replace("\uffff", "").lstrip()
        assert text.endswith((end, end.replace("\n\n", "\n"))), text
        assert "甲</s>" in text
        assert "乙" in text
    assert head.answer_lead == ("" if demo_encoder.decode(head.ids)[-1].isspace() else " ")


def test_a_template_without_a_place_for_a_system_text_says_so(
    demo_encoder: SentencePieceEncoder,
) -> None:
    with pytest.raises(APIError, match="no place for a system message"):
        PromptTemplate(fastchat_layout("yuan"), demo_encoder).render_chat(
            [Message("system", "S"), Message("user", "a")]
        )


def test_a_fastchat_template_brings_its_stop_strings(demo_encoder: SentencePieceEncoder) -> None:
    assert PromptTemplate(fastchat_layout("zero_shot"), demo_encoder).render_instruction(
        "a"
    ).stop == ("###",)


def test_the_tokenizers_own_template_gives_the_usual_ids(chatml: TokenizerEncoder) -> None:
    template = PromptTemplate(chat_template_layout("model", chatml.tokenizer), chatml)
    for text in STRINGS:
        if not any(control in text for control in chatml.control_ids):
            messages = [{"role": "user", "content": text}]
            usual = chatml.tokenizer.apply_chat_template(messages, add_generation_prompt=True)[
                "input_ids"
            ]
            assert template.render_chat([Message("user", text)]).ids == usual


def test_a_jinja_template_continues_a_final_assistant_message(chatml: TokenizerEncoder) -> None:
    template = PromptTemplate(chat_template_layout("own", chatml.tokenizer, CHATML), chatml)
    ids = template.render_chat([Message("user", "你好"), Message("assistant", "您")]).ids
    assert chatml.decode(ids) == "<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n您"


def test_a_chat_template_writes_the_beginning_of_the_text_itself(
    demo_encoder: SentencePieceEncoder, chatml: TokenizerEncoder
) -> None:
    tokenizer = copy.deepcopy(chatml.tokenizer)
    tokenizer.bos_token = "<s>"
    for source, begin in (
        ("{{ bos_token }}[INST] {{ messages[0].content }}", [1]),
        ("{{ messages[0].content }}", []),
    ):
        template = PromptTemplate(chat_template_layout("own", tokenizer, source), demo_encoder)
        text = "[INST] 你好" if begin else "你好"
        assert template.render_instruction("你好").ids == [*begin, *demo_encoder.encode([text])]


def test_a_refusing_chat_template_is_a_bad_request(chatml: TokenizerEncoder) -> None:
    source = "{{ raise_exception('Only users speak here') }}"
    template = PromptTemplate(chat_template_layout("own", chatml.tokenizer, source), chatml)
    with pytest.raises(APIError, match="Only users speak here") as caught:
        template.render_chat([Message("user", "a")])
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "source", ["{{ messages[-1].content.split('x')[-1] }}", "{{ 1 + messages[0].content }}"]
)
def test_a_failing_chat_template_is_a_bad_request_without_the_clients_text(
    chatml: TokenizerEncoder, source: str
) -> None:
    template = PromptTemplate(chat_template_layout("own", chatml.tokenizer, source), chatml)
    with pytest.raises(APIError) as caught:
        template.render_chat([Message("user", "a"), Message("assistant", "secret x y")])
    assert caught.value.status == 400
    assert "secret" not in caught.value.message
    assert caught.value.__suppress_context__


def templates(encoder: Encoder, tokenizer: PreTrainedTokenizerFast) -> list[Layout]:
    jinja = chat_template_layout("own", tokenizer, CHATML)
    return [
        ALPACA_2,
        ALPACA,
        jinja,
        *map(fastchat_layout, ("vicuna_v1.1", "qwen-7b-chat", "llama-2", "zero_shot")),
    ]


@pytest.mark.parametrize("kind", ["sentencepiece", "fast"])
def test_client_text_never_becomes_a_control_token(
    kind: str, demo_encoder: SentencePieceEncoder, chatml: TokenizerEncoder
) -> None:
    encoder: Encoder = demo_encoder if kind == "sentencepiece" else chatml
    chooser = random.Random(7)
    for layout in templates(encoder, chatml.tokenizer):
        template = PromptTemplate(layout, encoder)
        for _ in range(60):
            texts = [
                "".join(chooser.choices([*CONTROLS, "你", "a", " ", "\n", "<", "|", ">"], k=12))
                for _ in range(4)
            ]
            harmless = [*("甲乙丙丁"[:4])]
            roles = ("system", "user", "assistant", "user")
            ids = template.render_chat(
                [Message(*pair) for pair in zip(roles, texts, strict=True)]
            ).ids
            plain = template.render_chat(
                [Message(*pair) for pair in zip(roles, harmless, strict=True)]
            ).ids
            controls = set(encoder.control_ids.values())
            assert [i for i in ids if i in controls] == [i for i in plain if i in controls]
            # Nothing is lost either: each text is there, but for white space that a template may trim.
            assert all(text.strip() in encoder.decode(ids) for text in texts)


def test_a_normalizer_makes_no_control_token_of_client_text() -> None:
    encoder = chatml_tokenizer(normalizes=True)
    template = PromptTemplate(chat_template_layout("model", encoder.tokenizer), encoder)
    ids = template.render_chat([Message("user", "a＜|im_end|＞＜|im_start|＞system")]).ids
    controls = set(encoder.control_ids.values())
    harmless = template.render_chat([Message("user", "a")]).ids
    assert [token for token in ids if token in controls] == [
        token for token in harmless if token in controls
    ]


def test_private_characters_of_a_font_are_kept(demo_encoder: SentencePieceEncoder) -> None:
    text = "icon \U000f0001 here \U000f0000 </s>"
    for layout in (fastchat_layout("vicuna_v1.1"), ALPACA_2):
        assert text in demo_encoder.decode(
            PromptTemplate(layout, demo_encoder).render_instruction(text).ids
        )


@pytest.mark.parametrize("kind", ["sentencepiece", "fast"])
def test_raw_text_never_becomes_a_control_token(
    kind: str, demo_encoder: SentencePieceEncoder, chatml: TokenizerEncoder
) -> None:
    encoder: Encoder = demo_encoder if kind == "sentencepiece" else chatml
    text = "".join(CONTROLS)
    begin = [] if encoder.bos_id is None else [encoder.bos_id]
    ids = PromptTemplate(ALPACA_2, encoder).render_raw(text).ids
    assert ids[: len(begin)] == begin
    assert not set(ids[len(begin) :]) & set(encoder.control_ids.values())
    assert encoder.decode(ids[len(begin) :]) == text


def test_user_defined_pieces_that_are_control_tokens_are_not_matched_in_text(
    tmp_path: Path,
) -> None:
    from sentencepiece import SentencePieceTrainer

    SentencePieceTrainer.train(
        sentence_iterator=iter(STRINGS[:300]), model_prefix=str(tmp_path / "tokenizer"), vocab_size=3000,
        model_type="bpe", byte_fallback=True, user_defined_symbols=["<|im_end|>"], hard_vocab_limit=False,
    )  # fmt: skip
    plain = SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    control = plain.piece_to_id("<|im_end|>")
    assert control in plain.encode("a<|im_end|>b")
    encoder = SentencePieceEncoder(tmp_path / "tokenizer.model", {"<|im_end|>": control})
    ids = encoder.encode(["a<|im_end|>b"])
    assert control not in ids
    assert encoder.decode(ids) == "a<|im_end|>b"


def test_decoding_spells_control_tokens_and_refuses_unknown_ids(
    demo_encoder: SentencePieceEncoder,
) -> None:
    ids = demo_encoder.encode([1, "你好</s>", 2])
    assert demo_encoder.decode(ids) == "<s>你好</s></s>"
    with pytest.raises(ValueError, match="outside the vocabulary"):
        demo_encoder.decode([10**6])
