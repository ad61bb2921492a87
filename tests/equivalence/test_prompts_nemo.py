"""Canary's tokenizers and prompts next to NeMo's own: ids, texts and every slot of both formats."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from families import train_with_symbols

from transformers_fastconformer.decoding.prompts import PromptOptions, fill_prompt, prompt_ids
from transformers_fastconformer.nemo.tokenizers import aggregate_tokenizer, sentencepiece_tokenizer
from transformers_fastconformer.tokenization_fastconformer import FastConformerTokenizer

pytestmark = pytest.mark.nemo

SYMBOLS = ["<|startofcontext|>", "<|startoftranscript|>", "<|endoftext|>", "<|nospeech|>", "<pad>", "<|en|>", "<|de|>"]
SYMBOLS += ["<|transcribe|>", "<|translate|>", "<|pnc|>", "<|nopnc|>", "<|itn|>", "<|noitn|>", "<|timestamp|>"]
SYMBOLS += ["<|notimestamp|>", "<|diarize|>", "<|nodiarize|>", "<|emo:undefined|>", "<|emo:happy|>"]
SYMBOLS += [f"<|{frame}|>" for frame in range(20)]
TEXTS = ["", "the children run", "Walk to school, and one two three!", "  zero  ", "<|en|> is no text", "a ?"]
FLAGS = {True: "yes", False: "no"}


@pytest.fixture(scope="module", params=["single", "aggregate", "regions"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Our tokenizer and NeMo's."""
    from nemo.collections.common.tokenizers.canary_tokenizer import CanaryBPETokenizer, CanaryTokenizer
    from nemo.collections.common.tokenizers.sentencepiece_tokenizer import SentencePieceTokenizer

    folder = tmp_path_factory.mktemp("tokenizers")
    if request.param == "single":
        path = model_path(folder, "all", SYMBOLS)
        return sentencepiece_tokenizer(path.read_bytes()), CanaryBPETokenizer(str(path))
    english, german = ("en-US", "de-DE") if request.param == "regions" else ("en", "de")
    names = {"spl_tokens": SYMBOLS, english: [], german: []}
    paths = {name: model_path(folder, name, symbols) for name, symbols in names.items()}
    ours = {name: sentencepiece_tokenizer(path.read_bytes()) for name, path in paths.items()}
    theirs = {name: SentencePieceTokenizer(str(path)) for name, path in paths.items()}
    return aggregate_tokenizer(ours), CanaryTokenizer(theirs)


def model_path(folder: Path, name: str, symbols: list[str]) -> Path:
    train_with_symbols(folder / name, symbols, 128 if symbols else 64)
    return folder / name / "tokenizer.model"


def is_aggregate(theirs: Any) -> bool:
    return hasattr(theirs, "langs")


def test_special_tokens_are_nemos(pair: tuple[FastConformerTokenizer, Any], tmp_path: Path) -> None:
    ours, theirs = pair
    ours.save_pretrained(tmp_path)
    for tokenizer in (ours, FastConformerTokenizer.from_pretrained(tmp_path)):
        assert tokenizer.bos_token_id == theirs.bos_id
        assert tokenizer.eos_token_id == theirs.eos_id
        assert tokenizer.pad_token_id == theirs.pad_id
        assert tokenizer.blank_token_id == len(tokenizer) == theirs.vocab_size
        assert tokenizer.vocabulary_tokens(range(theirs.vocab_size)) == list(theirs.vocab)


def test_texts_and_ids_are_nemos(pair: tuple[FastConformerTokenizer, Any]) -> None:
    ours, theirs = pair
    for text, language in itertools.product(TEXTS, ("en", "de")):
        arguments = (language,) if is_aggregate(theirs) else ()
        ids = theirs.text_to_ids(text, *arguments)
        assert ours(text, **({"language": language} if arguments else {})).input_ids == ids
        assert ours.decode(ids) == theirs.ids_to_text(ids)
    rng = random.Random(0)
    for _ in range(300):
        ids = [rng.randrange(theirs.vocab_size) for _ in range(rng.randrange(30))]
        assert ours.decode(ids) == theirs.ids_to_text(ids)
        spoken = [token_id for token_id in ids if token_id not in ours.hidden_token_ids]
        assert ours.decode(ids, skip_special_tokens=True) == theirs.ids_to_text(spoken)


def nemo_prompt(theirs: Any, prompt_format: str, values: dict[str, Any]) -> list[int]:
    """NeMo's prompt for values of our slots."""
    from nemo.collections.common.prompts.formatter import PromptFormatter

    flags = {name: FLAGS[values[name]] for name in ("pnc", "itn", "diarize") if name in values}
    slots = {"source_lang": values["source_lang"], "target_lang": values["target_lang"], **flags}
    if prompt_format == "canary":
        slots["task"] = values["task"]
    else:
        emotion = f"<|emo:{values['emotion']}|>"
        slots |= {
            "decodercontext": values["context"],
            "emotion": emotion,
            "timestamp": FLAGS[values["timestamps"]],
        }
    formatter = PromptFormatter.resolve(prompt_format)(theirs)
    return formatter.encode_dialog([{"role": "user", "slots": slots}])["context_ids"].tolist()


@pytest.mark.parametrize("prompt_format", ["canary", "canary2"])
def test_prompts_are_nemos(pair: tuple[FastConformerTokenizer, Any], prompt_format: str) -> None:
    ours, theirs = pair
    facts = SimpleNamespace(prompt_format=prompt_format, prompt_defaults={}, prompt_token_ids=ours.prompt_token_ids)
    rng = random.Random(1)
    contexts = ["", "the children walk", " run,  home"]
    for source, target in itertools.product(("en", "de"), repeat=2):
        for _ in range(12):
            given: dict[str, Any] = {"source_lang": source, "target_lang": target, "pnc": rng.random() < 0.5}
            text = ""
            if prompt_format == "canary2":
                text = rng.choice(contexts)
                given |= {name: rng.random() < 0.5 for name in ("itn", "timestamps", "diarize")}
                given |= {"emotion": rng.choice(["undefined", "happy"]), "context": ours.context_ids(text, target)}
            options = PromptOptions(**given)
            values = {**fill_prompt(facts, options), "context": text}
            assert prompt_ids(facts, options) == nemo_prompt(theirs, prompt_format, values), given


def test_the_defaults_are_those_that_nemo_falls_back_to(pair: tuple[FastConformerTokenizer, Any]) -> None:
    ours, theirs = pair
    from lhotse import SupervisionSegment
    from lhotse.testing.dummies import dummy_cut
    from nemo.collections.common.data.prompt_fn import get_prompt_format_fn
    from nemo.collections.common.prompts.formatter import PromptFormatter

    for prompt_format in ("canary", "canary2"):
        supervision = SupervisionSegment("a", "a", 0, 1, text="", language="en")
        cut = dummy_cut(0, supervisions=[supervision])
        cut.custom = {"source_lang": "en", "target_lang": "en"}
        if prompt_format == "canary":  # what `EncDecMultiTaskModel` puts in where the caller says nothing
            cut.custom |= {"taskname": "asr", "pnc": "yes"}
        formatter = PromptFormatter.resolve(prompt_format)(theirs)
        encoded = get_prompt_format_fn(type(cut), formatter)(cut, formatter)
        facts = SimpleNamespace(
            prompt_format=prompt_format, prompt_defaults={}, prompt_token_ids=ours.prompt_token_ids
        )
        assert prompt_ids(facts, PromptOptions()) == encoded["context_ids"].tolist()
