"""The tokenizer: ids and text beside SentencePiece's own, NeMo's rules of text, saving and loading."""

from __future__ import annotations

import copy
import json
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentencepiece_models import SYMBOLS, VARIANTS, train_sentencepiece_model
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from transformers_fastconformer.nemo.tokenizers import (
    aggregate_tokenizer,
    character_tokenizer,
    sentencepiece_tokenizer,
    wordpiece_tokenizer,
)
from transformers_fastconformer.tokenization_fastconformer import FastConformerTokenizer, punctuation_of

FRAGMENTS = (
    "the", "quick", "dog", "features", "aaa", "aaaaaaa", "  ", " ", "\t", "\n", "\u3000", ".", "...", "?!", "'s", "-",
    "<EOU>", "<EOB>", "<unk>", "<s>", "<pad>", "<blank>", "<0x41>", "▁", "É", "e\u0301", "Q\u0301", "ﬁ\u0323", "①",
    "½", "ü", "中文", "한", "👍", "\u200d", "\uff21", "ß", "12", "6.70", "—", "“", "क\u093c", "\u0301", "x",
)  # fmt: skip


def random_text(rng: random.Random) -> str:
    return "".join(rng.choice(FRAGMENTS) + rng.choice(("", " ", "  ")) for _ in range(rng.randint(0, 9)))


def as_pieces(processor: Any, ids: list[int]) -> list[str]:
    return [processor.id_to_piece(token_id) for token_id in ids]


@pytest.fixture(params=VARIANTS)
def pair(request: pytest.FixtureRequest) -> tuple[FastConformerTokenizer, Any]:
    """The tokenizer and SentencePiece itself, on the same model."""
    import sentencepiece

    model = train_sentencepiece_model(**VARIANTS[request.param])
    return sentencepiece_tokenizer(model), sentencepiece.SentencePieceProcessor(model_proto=model)


def test_ids_are_those_of_sentencepiece(pair: tuple[FastConformerTokenizer, Any]) -> None:
    tokenizer, processor = pair
    size = processor.get_piece_size()
    assert tokenizer.vocab_size == size
    assert len(tokenizer) == size + 1
    assert tokenizer.convert_ids_to_tokens(range(size)) == as_pieces(processor, list(range(size)))
    assert tokenizer.vocabulary_tokens(range(size)) == as_pieces(processor, list(range(size)))
    assert tokenizer.unk_token_id == processor.unk_id()
    assert tokenizer.pad_token_id == tokenizer.blank_token_id == size
    assert tokenizer.pad_token == "<blank>"
    assert tokenizer.bos_token is None
    assert tokenizer.eos_token is None


def test_encoding_is_that_of_sentencepiece(pair: tuple[FastConformerTokenizer, Any]) -> None:
    tokenizer, processor = pair
    rng = random.Random(0)
    texts = ["", " ", *(random_text(rng) for _ in range(400))]
    others = 0
    for text, ids in zip(texts, tokenizer(texts).input_ids, strict=True):
        expected = processor.encode_as_ids(text)
        if ids != expected:
            # Unigram: ". .." and ".. ." are equally likely, and SentencePiece's choice hangs on a float32 rounding.
            assert "Unigram" in str(type(tokenizer.backend_tokenizer.model)), (text, ids, expected)
            assert sorted(ids) == sorted(expected), (text, as_pieces(processor, ids), as_pieces(processor, expected))
            others += 1
    assert others <= 20


def test_piece_text_is_that_of_sentencepiece(pair: tuple[FastConformerTokenizer, Any]) -> None:
    tokenizer, processor = pair
    rng = random.Random(1)
    size = processor.get_piece_size()
    for _ in range(400):
        few = rng.choice((size, 12, 260))  # the reserved pieces stand at the beginning
        ids = [rng.randrange(min(few, size)) for _ in range(rng.randint(0, 12))]
        assert tokenizer.piece_text(ids) == processor.decode_pieces(as_pieces(processor, ids)), ids


def test_saving_and_loading_change_nothing(pair: tuple[FastConformerTokenizer, Any], tmp_path: Path) -> None:
    tokenizer, processor = pair
    tokenizer.save_pretrained(tmp_path)
    assert {"tokenizer.json", "tokenizer_config.json"} <= {path.name for path in tmp_path.iterdir()}
    loaded = FastConformerTokenizer.from_pretrained(tmp_path)
    loaded.save_pretrained(tmp_path / "again")
    again = FastConformerTokenizer.from_pretrained(tmp_path / "again")
    rng = random.Random(2)
    texts = [random_text(rng) for _ in range(50)]
    rows = [[rng.randrange(processor.get_piece_size()) for _ in range(8)] for _ in range(50)]
    for other in (loaded, again, copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        assert len(other) == len(tokenizer)
        assert other.pad_token_id == tokenizer.pad_token_id
        assert other(texts).input_ids == tokenizer(texts).input_ids
        assert other.batch_decode(rows) == tokenizer.batch_decode(rows)
        assert other.event_tokens == tokenizer.event_tokens
        assert other.punctuation == tokenizer.punctuation
    assert (tmp_path / "tokenizer.json").read_bytes() == (tmp_path / "again" / "tokenizer.json").read_bytes()


def test_the_saved_backend_normalises_by_itself(tmp_path: Path) -> None:
    tokenizer = sentencepiece_tokenizer(train_sentencepiece_model())
    tokenizer.save_pretrained(tmp_path)
    backend = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = "The  ﬁrst\u3000quick fox."
    assert backend.encode(text).ids == tokenizer(text).input_ids == tokenizer("The first quick fox.").input_ids


def test_the_auto_class_loads_it(tmp_path: Path) -> None:
    from transformers_fastconformer import FastConformerConfig

    AutoTokenizer.register(FastConformerConfig, fast_tokenizer_class=FastConformerTokenizer, exist_ok=True)
    tokenizer = sentencepiece_tokenizer(train_sentencepiece_model(user_defined_symbols=SYMBOLS))
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert type(loaded) is FastConformerTokenizer
    assert (
        loaded("Where does the road lead? <EOU>").input_ids == tokenizer("Where does the road lead? <EOU>").input_ids
    )


def test_a_space_before_known_punctuation_is_dropped() -> None:
    tokenizer = sentencepiece_tokenizer(train_sentencepiece_model(model_type="char"))
    ids = tokenizer.convert_tokens_to_ids(["▁", "d", "o", "g", "▁", ".", "▁", "▁", "?", "▁", "x"])
    assert tokenizer.piece_text(ids) == "dog .  ? x"
    assert tokenizer.decode(ids) == "dog. ? x"


def test_punctuation_is_read_off_the_vocabulary() -> None:
    tokens = ["<unk>", "[CLS]", "▁(", "##-", "'s", "...", "a", "<b", "$", "¿", "e.g."]
    assert punctuation_of(tokens) == frozenset("'.¿")
    assert punctuation_of(["a", "b"]) == frozenset()


def test_blanks_and_ignored_labels_never_show() -> None:
    tokenizer = sentencepiece_tokenizer(train_sentencepiece_model())
    ids = tokenizer("the dog").input_ids
    padded = [tokenizer.pad_token_id, *ids, -100, tokenizer.pad_token_id]
    for skip_special_tokens in (False, True):
        assert tokenizer.decode(padded, skip_special_tokens=skip_special_tokens) == "the dog"
    assert tokenizer.decode(torch.tensor(padded)) == "the dog"
    assert tokenizer.decode(np.array([padded, padded])) == ["the dog", "the dog"]
    assert tokenizer.batch_decode(torch.tensor([padded])) == ["the dog"]
    assert tokenizer.decode(ids[0]) == tokenizer.piece_text(ids[:1])
    assert tokenizer.decode([]) == ""
    assert tokenizer.decode([-100]) == ""


@pytest.mark.parametrize("wrong", [-1, -101, 10**6])
def test_ids_outside_the_vocabulary_are_refused(wrong: int) -> None:
    tokenizer = sentencepiece_tokenizer(train_sentencepiece_model())
    with pytest.raises(ValueError, match=f"token_ids: found {wrong}; expected 0 to {tokenizer.vocab_size}"):
        tokenizer.decode([0, wrong])


def test_the_unknown_is_written_as_sentencepiece_does() -> None:
    tokenizer = sentencepiece_tokenizer(train_sentencepiece_model())
    assert tokenizer.decode(tokenizer("the 中 dog").input_ids, skip_special_tokens=True) == "the  ⁇  dog"


def test_events_are_hidden_as_special_tokens_only() -> None:
    tokenizer = sentencepiece_tokenizer(train_sentencepiece_model(user_defined_symbols=("<EOU>", "<EOB>", "<noise>")))
    assert tokenizer.event_tokens == ["<EOU>", "<EOB>"]
    ids = tokenizer("the dog<EOU> <noise>").input_ids
    assert tokenizer.decode(ids) == "the dog<EOU> <noise>"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "the dog <noise>"


def test_language_tags_are_deleted_where_asked_for() -> None:
    model = train_sentencepiece_model(user_defined_symbols=("<en-US>",))
    pattern = r"\s*<[a-z]{2}-[A-Z]{2}>"
    kept, deleted = sentencepiece_tokenizer(model), sentencepiece_tokenizer(model, language_tag_pattern=pattern)
    ids = kept("the dog <en-US>").input_ids
    assert kept.decode(ids) == "the dog <en-US>"
    assert deleted.decode(ids) == "the dog"


def test_best_classes_of_ctc_frames_become_text() -> None:
    """Equal neighbours are one token in frames, and two in a sequence of tokens."""
    tokenizer = sentencepiece_tokenizer(train_sentencepiece_model())
    blank = tokenizer.blank_token_id
    (first, second) = tokenizer("the dog").input_ids[:2]
    text, doubled = tokenizer.decode([first, second]), tokenizer.decode([first, first, second])
    assert text != doubled
    frames = [blank, first, first, blank, second, second, blank, blank]
    assert tokenizer.decode(frames) == text
    assert tokenizer.decode([first, first, blank, first, second]) == doubled
    assert tokenizer.decode(torch.tensor(frames)) == tokenizer.decode(np.array(frames)) == text
    assert tokenizer.decode(frames, group_tokens=False) == tokenizer.decode([first, first, second, second])
    # Tokens are padded after the last one, with the blank or -100.
    assert tokenizer.decode([first, first, second, blank, blank]) == doubled
    assert tokenizer.decode([first, first, second, -100]) == doubled
    assert tokenizer.decode([first, first, second], group_tokens=True) == text
    # One row that is of frames tells of all rows of its batch.
    assert tokenizer.batch_decode([frames, [first, first, second, blank]]) == [text, text]
    assert tokenizer.batch_decode(np.array([[first, first, second, blank]])) == [doubled]
    assert tokenizer.batch_decode([]) == []
    assert tokenizer.decode([]) == tokenizer.decode([blank, blank]) == ""
    assert tokenizer.decode(first) == tokenizer.decode([first])


def test_padding_that_trainer_adds_to_frames_is_no_token() -> None:
    """`Trainer` pads logits with -100, whose best class is 0, and best classes with -100."""
    tokenizer = sentencepiece_tokenizer(train_sentencepiece_model())
    blank, unknown = tokenizer.blank_token_id, tokenizer.unk_token_id
    assert unknown == 0
    ids = tokenizer("the").input_ids
    text = tokenizer.decode(ids)
    assert tokenizer.decode([blank, *ids, blank, 0, 0, 0]) == tokenizer.decode([blank, *ids, -100, -100]) == text
    assert tokenizer.decode([*ids, 0]) != text
    assert tokenizer.decode([blank, 0, blank, *ids]) == tokenizer.decode([0, *ids])


def test_options_that_would_change_the_text_are_refused() -> None:
    tokenizer = sentencepiece_tokenizer(train_sentencepiece_model())
    with pytest.raises(ValueError, match="clean_up_tokenization_spaces=True"):
        tokenizer.decode([5], clean_up_tokenization_spaces=True)
    with pytest.raises(TypeError, match="spaces_between_special_tokens"):
        tokenizer.decode([5], spaces_between_special_tokens=True)
    with pytest.raises(ValueError, match="group_tokens='yes'"):
        tokenizer.decode([5], group_tokens="yes")
    with pytest.raises(ValueError, match="text_pair"):
        tokenizer("a", "b")
    with pytest.raises(ValueError, match="language='en'"):
        tokenizer("a", language="en")
    with pytest.raises(ValueError, match="text_rule='spm'"):
        FastConformerTokenizer(tokenizer_object=tokenizer.backend_tokenizer, pad_token="<blank>", text_rule="spm")
    with pytest.raises(ValueError, match="pad_token_id=0"):
        FastConformerTokenizer(tokenizer_object=tokenizer.backend_tokenizer, pad_token="<unk>")
    with pytest.raises(ValueError, match=r"\['<EOU>'\] are not in the vocabulary"):
        FastConformerTokenizer(
            tokenizer_object=tokenizer.backend_tokenizer, pad_token="<blank>", event_tokens=["<EOU>"]
        )


def test_batches_are_padded_with_the_blank() -> None:
    tokenizer = sentencepiece_tokenizer(train_sentencepiece_model())
    batch = tokenizer(["the dog", "the lazy brown dog"], padding=True, return_tensors="pt")
    lengths = batch.attention_mask.sum(-1)
    assert batch.input_ids.shape == (2, int(lengths.max()))
    assert batch.input_ids[0, lengths[0] :].eq(tokenizer.pad_token_id).all()
    assert tokenizer.batch_decode(batch.input_ids) == ["the dog", "the lazy brown dog"]


def test_the_blank_gets_another_name_where_its_own_is_taken() -> None:
    tokenizer = sentencepiece_tokenizer(train_sentencepiece_model(user_defined_symbols=("<blank>",)))
    assert tokenizer.pad_token == "<blank_>"
    assert tokenizer.pad_token_id == tokenizer.vocab_size
    assert tokenizer.decode(tokenizer("<blank> dog").input_ids) == "<blank> dog"


def test_characters() -> None:
    tokenizer = character_tokenizer([" ", *"abcdefghijklmnopqrstuvwxyz", "'", ".", "<noise>"])
    assert tokenizer("it's a <noise> dog.").input_ids == [9, 20, 27, 19, 0, 1, 0, 29, 0, 4, 15, 7, 28]
    assert tokenizer("a中b").input_ids == [1, 2]  # what is no label is left out
    assert tokenizer.decode([0, 0, 1, 0, 28, 2]) == "  a.b"
    assert tokenizer.unk_token is None
    assert tokenizer.pad_token_id == 30


def test_wordpiece(tmp_path: Path) -> None:
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "play", "##ing", "##er", ".", "dog"]
    tokenizer = wordpiece_tokenizer(tokens)
    assert tokenizer("the playing dog.").input_ids == [5, 6, 7, 10, 9]
    assert tokenizer.decode([2, 5, 6, 8, 9, 7]) == "[CLS] the player.ing"
    assert tokenizer.decode([7, 5]) == "##ing the"
    tokenizer.save_pretrained(tmp_path)
    assert FastConformerTokenizer.from_pretrained(tmp_path).decode([5, 6, 8]) == "the player"


@pytest.fixture
def spanish_and_english() -> tuple[FastConformerTokenizer, list[FastConformerTokenizer]]:
    parts = [
        sentencepiece_tokenizer(train_sentencepiece_model(vocab_size=120, user_defined_symbols=("<EOU>",))),
        sentencepiece_tokenizer(train_sentencepiece_model(model_type="unigram", vocab_size=130)),
    ]
    return aggregate_tokenizer({"es": parts[0], "en": parts[1]}), parts


def test_aggregates_shift_the_ids_in_order(
    spanish_and_english: tuple[FastConformerTokenizer, list[FastConformerTokenizer]], tmp_path: Path
) -> None:
    tokenizer, (spanish, english) = spanish_and_english
    tokenizer.save_pretrained(tmp_path)
    text = "the ﬁrst dog"
    shifted = [token_id + spanish.vocab_size for token_id in english(text).input_ids]
    for each in (tokenizer, FastConformerTokenizer.from_pretrained(tmp_path)):
        assert each.vocab_size == spanish.vocab_size + english.vocab_size == each.pad_token_id
        assert each(text, language="es").input_ids == spanish(text).input_ids
        assert each(text, language="en").input_ids == shifted
        assert each.decode(shifted) == " the first dog"  # the leading space is NeMo's
        assert {each.language_of(token_id) for token_id in shifted} == {"en"}
        assert each.language_of(0) == "es"
        assert each.vocabulary_tokens([spanish.vocab_size]) == ["<unk>"]
        assert each.convert_ids_to_tokens([spanish.vocab_size]) == ["en:<unk>"]
        assert each.event_tokens == ["es:<EOU>"]
        batch = each(["the dog", "the lazy brown dog"], language="en", padding=True, return_tensors="pt")
        assert batch.input_ids[0, -1] == each.pad_token_id
        assert batch.attention_mask.sum(-1).tolist() == [
            len(english(t).input_ids) for t in ("the dog", "the lazy brown dog")
        ]
        with pytest.raises(ValueError, match=r"language=None is not supported; expected one of \['es', 'en'\]"):
            each(text)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("control_tokens", 5, "control_tokens=5 is not supported; expected a list of tokens"),
        ("kept_symbols", [5], "kept_symbols="),
        ("byte_tokens", "x", "byte_tokens='x' is not supported; expected True or False"),
        ("byte_tokens", True, "256 tokens such as '<0x00>' are missing; expected all 256 of the bytes"),
        ("unknown_text", 5, "unknown_text=5"),
        ("language_tag_pattern", "(", "expected a regular expression"),
        ("language_tag_pattern", 5, "expected a regular expression"),
        ("languages", 5, "languages=5"),
        ("languages", [[1]], "languages: found 1; expected some only where"),
        ("text_rule", ["x"], "text_rule="),
        ("model_max_length", "x", "model_max_length='x'"),
    ],
)
def test_options_of_another_kind_are_named(name: str, value: Any, message: str, tmp_path: Path) -> None:
    sentencepiece_tokenizer(train_sentencepiece_model()).save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), name: value}), encoding="utf-8")
    with pytest.raises(ValueError, match=message) as raised:
        FastConformerTokenizer.from_pretrained(tmp_path)
    assert str(tmp_path) in str(raised.value)


def test_special_tokens_of_multitask_models_are_known(tmp_path: Path) -> None:
    tokens = ("<|startoftranscript|>", "<|endoftext|>", "<pad>", "<|en|>", "<|0|>", "<|12|>")
    single = sentencepiece_tokenizer(train_sentencepiece_model(user_defined_symbols=tokens))
    language = sentencepiece_tokenizer(train_sentencepiece_model())
    aggregate = aggregate_tokenizer({"spl_tokens": single, "en-US": language})
    for kind, tokenizer in (("single", single), ("aggregate", aggregate)):
        tokenizer.save_pretrained(tmp_path / kind)
        for each in (tokenizer, FastConformerTokenizer.from_pretrained(tmp_path / kind)):
            start, end, padding, english, *times = (each.prompt_token_id(token) for token in tokens)
            assert (each.bos_token_id, each.eos_token_id, each.pad_token_id) == (start, end, padding)
            assert {start, end, padding, english, *times} <= set(each.all_special_ids)
            assert [each.frame_of_time(token_id) for token_id in (english, *times)] == [None, 0, 12]
            of_prompts = {"<|startoftranscript|>", "<|endoftext|>", "<|en|>"}
            assert set(each.prompt_token_ids) == (of_prompts | {"\u2581"} if kind == "single" else of_prompts)
            words = each("the dog", **({} if kind == "single" else {"language": "en"})).input_ids
            ids = [start, english, times[0], *words, times[1], end, padding]
            assert each.decode(ids, skip_special_tokens=True).strip() == "the dog"
            assert each.decode(ids).startswith("<|startoftranscript|><|en|><|0|>")
            assert each.decode(ids).endswith("<|12|><|endoftext|><pad>")
    size = single.blank_token_id
    assert single.decode([*single("the dog").input_ids, *range(size, -(-size // 8) * 8)]) == "the dog"
    with pytest.raises(ValueError, match="token_ids: found"):
        single.decode([-(-size // 8) * 8])
    assert aggregate.languages_of_text == ["en-US"]
    assert aggregate("", language="en").input_ids == []
    with pytest.raises(ValueError, match=r"language='fr' is not supported; expected one of \['en-US'\]"):
        aggregate("the", language="fr")


def test_prompts_keep_the_space_before_punctuation() -> None:
    plain = train_sentencepiece_model()
    prompted = train_sentencepiece_model(user_defined_symbols=("<|startoftranscript|>",))
    for model, expected in ((plain, "dog."), (prompted, "dog .")):
        tokenizer = sentencepiece_tokenizer(model)
        assert tokenizer.decode(tokenizer("dog .").input_ids) == expected


def test_the_context_of_a_prompt_has_no_space_of_its_own() -> None:
    symbols = ("<|startofcontext|>", "<|startoftranscript|>")
    single = sentencepiece_tokenizer(train_sentencepiece_model(user_defined_symbols=symbols))
    assert single.context_ids("") == []
    assert single.decode(single.context_ids("the dog")) == "the dog"
    assert single.context_ids(" the") == single("the").input_ids
    aggregate = aggregate_tokenizer({"spl_tokens": single, "en": sentencepiece_tokenizer(train_sentencepiece_model())})
    assert aggregate.context_ids("the dog", "en") == aggregate("the dog", language="en").input_ids
    assert aggregate.context_ids("", "en") == []
