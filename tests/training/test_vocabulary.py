"""Models with another vocabulary: rows of pieces that stay, ids, losses, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from models import BLANK, HEADS, TRANSDUCERS, build_model, make_features
from multitask_archives import make_canary_config, write_canary
from tolerances import LOSS_RELATIVE
from transducer_losses import rnnt_loss_of_clip, tdt_loss_of_clip

from transformers_fastconformer import transcribe
from transformers_fastconformer.demonstration import CLIP_PATHS
from transformers_fastconformer.feature_extraction_fastconformer import FastConformerFeatureExtractor
from transformers_fastconformer.inference.loading import load_model
from transformers_fastconformer.modeling.hybrid import share_as_ctc
from transformers_fastconformer.nemo.tokenizers import character_tokenizer
from transformers_fastconformer.processing_fastconformer import FastConformerProcessor
from transformers_fastconformer.training.tokenizers import extend_tokenizer, join_tokenizers, train_tokenizer
from transformers_fastconformer.training.vocabulary import NEW_PIECE_MARGIN, replace_tokenizer

OLD = "abcdefghij"
LONGER = "abcdefghijxyz"  # the old pieces with their ids, and three more
OTHER = "zjayb"  # three of the old pieces with other ids, and two more
NUMBERS = {character: index for index, character in enumerate(OLD)}
STAYED = [(place, NUMBERS[character]) for place, character in enumerate(OTHER) if character in NUMBERS]


def processor_of(model: Any, labels: str = OLD) -> FastConformerProcessor:
    extractor = FastConformerFeatureExtractor(feature_size=model.config.num_mel_bins)
    return FastConformerProcessor(extractor, character_tokenizer(list(labels)))


def rows_of(model: Any) -> dict[str, torch.Tensor]:
    """All parameters with a row for each class."""
    names = ("ctc_head.", "joint.head.", "decoder.embedding")
    return {name: value.clone() for name, value in model.state_dict().items() if name.startswith(names)}


@pytest.mark.parametrize("kind", HEADS)
def test_rows_of_pieces_that_stay_are_kept_to_the_last_bit(kind: str) -> None:
    model = build_model(kind)
    processor, before, others = processor_of(model), rows_of(model), copy.deepcopy(model.state_dict())
    change = replace_tokenizer(model, processor, character_tokenizer(list(OTHER)))
    after, num_new = rows_of(model), len(OTHER)
    assert set(change.parameters) == before.keys() == after.keys()
    for name, old in before.items():
        new = after[name]
        assert new.shape[0] == old.shape[0] - len(OLD) + num_new
        for place, number in STAYED:
            assert torch.equal(new[place], old[number]), name
        assert torch.equal(new[num_new:], old[BLANK:]), name  # the blank and the durations
    for name, value in model.state_dict().items():
        assert name in before or torch.equal(value, others[name]), name
    assert change.stayed == ("j", "a", "b")
    assert change.came == ("z", "y")
    assert change.went == tuple("cdefghi")
    assert (change.num_spelled, str(change)) == (
        0,
        "3 pieces stayed, 2 came (0 begin as what old pieces spell), 7 went.",
    )
    config = model.config
    assert (config.vocab_size, config.blank_token_id, config.pad_token_id) == (num_new + 1, num_new, num_new)
    assert model.generation_config.pad_token_id == num_new
    assert processor.tokenizer.blank_token_id == num_new


@pytest.mark.parametrize("kind", HEADS)
def test_a_model_whose_vocabulary_has_grown_finds_the_same(kind: str) -> None:
    model = build_model(kind)
    features, lengths = make_features([90, 61]), torch.tensor([90, 61])
    before = model.generate(features, input_lengths=lengths)
    replace_tokenizer(model, processor_of(model), character_tokenizer(list(LONGER)))
    after = model.generate(features, input_lengths=lengths)
    assert torch.equal(before.masked_fill(before == BLANK, len(LONGER)), after)
    assert (after < len(OLD)).any(), "nothing was found"


@pytest.mark.parametrize("kind", HEADS)
def test_a_changed_model_trains(kind: str) -> None:
    model = build_model(kind).train()
    replace_tokenizer(model, processor_of(model), character_tokenizer(list(LONGER)))
    labels = torch.tensor([[10, 12, 0], [11, -100, -100]])
    loss = model(make_features([90, 61]), input_lengths=torch.tensor([90, 61]), labels=labels).loss
    loss.backward()
    assert loss.isfinite()
    for name, parameter in model.named_parameters():
        if name in rows_of(model) and parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad[10:13].any(), name
            assert parameter.grad.shape == parameter.shape


def test_new_pieces_begin_as_the_mean_of_what_spells_them() -> None:
    model = build_model("tdt_hybrid")
    processor = processor_of(model)
    before = rows_of(model)
    change = replace_tokenizer(model, processor, character_tokenizer([*OLD, "cab", "q"]))
    assert (change.came, change.num_spelled) == (("cab", "q"), 1)
    for name, new in rows_of(model).items():
        margin = NEW_PIECE_MARGIN if name.endswith("bias") else 0.0
        torch.testing.assert_close(new[10], before[name][:3].mean(0) - margin)
        torch.testing.assert_close(new[11], before[name][:10].mean(0) - margin)


@pytest.mark.parametrize("kind", ["tdt", "tdt_far", "tdt_hybrid"])
def test_the_loss_stays_tdt(kind: str) -> None:
    """
    NeMo 3.0's `change_vocabulary` makes the loss of a TDT model that of RNN-T over all outputs of the joint network,
    with the last duration as the blank.
    """
    model = build_model(kind, sigma=0.0)
    replace_tokenizer(model, processor_of(model), character_tokenizer(list(LONGER)))
    model.config.ctc_loss_weight = 0.0
    targets = [12, 0, 5]
    output = model(make_features([90]), labels=torch.tensor([targets]), output_logits=True)
    logits, durations = output.logits[0].double(), model.config.durations
    assert logits.shape[-1] == len(LONGER) + 1 + len(durations)
    expected = tdt_loss_of_clip(logits, targets, len(LONGER), durations)
    of_nemo = rnnt_loss_of_clip(logits, targets, logits.shape[-1] - 1)
    assert output.loss.item() == pytest.approx(expected, rel=LOSS_RELATIVE)
    assert output.loss.item() != pytest.approx(of_nemo, rel=0.01)
    lean = model(make_features([90]), labels=torch.tensor([targets])).loss
    assert lean.item() == pytest.approx(expected, rel=LOSS_RELATIVE)


def test_both_heads_of_a_shared_hybrid_change() -> None:
    model = build_model("tdt_hybrid")
    ctc = share_as_ctc(model)
    features = make_features([90])
    before = ctc.generate(features)
    is_token = before != BLANK
    replace_tokenizer(model, processor_of(model), character_tokenizer(list(LONGER)))
    assert ctc(features).logits.shape[-1] == len(LONGER) + 1
    assert torch.equal(ctc.generate(features)[is_token], before[is_token])


def test_kinds_of_parameters_are_kept() -> None:
    model = build_model("tdt_hybrid_ctc").to(torch.bfloat16)
    replace_tokenizer(model, processor_of(model), character_tokenizer(list(LONGER)))
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.bfloat16
        assert parameter.requires_grad == (not name.startswith(("decoder.", "joint."))), name
    assert model.decoder.embedding.padding_idx == len(LONGER)
    assert model.decoder.embedding.num_embeddings == model.ctc_head.out_features == len(LONGER) + 1


def test_padding_moves_with_its_piece() -> None:
    def padding_after(pad_token_id: int) -> int:
        model = build_model("ctc", pad_token_id=pad_token_id)
        replace_tokenizer(model, processor_of(model), character_tokenizer(list(OTHER)))
        return model.config.pad_token_id

    assert padding_after(BLANK) == len(OTHER)
    assert padding_after(NUMBERS["b"]) == OTHER.index("b")
    assert padding_after(99) == 99
    with pytest.raises(ValueError, match="pad_token_id=2 is not supported; expected the blank, or a piece"):
        padding_after(NUMBERS["c"])


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    model = build_model("tdt_hybrid")
    processor = processor_of(model)
    replace_tokenizer(model, processor, character_tokenizer(list(OTHER)))
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, loaded_processor = load_model(tmp_path, device="cpu")
    assert loaded_processor.tokenizer.vocabulary_tokens(range(5)) == list(OTHER)
    features = make_features([90])
    assert torch.equal(loaded.generate(features), model.generate(features))


# Real models


def test_the_demonstration_learns_pieces_and_hears_the_same(tmp_path: Path) -> None:
    model, processor = load_model("demo", device="cpu")
    clips = [str(path) for path in CLIP_PATHS]
    heads = ("transducer", "ctc")
    before = {head: [found.text for found in transcribe(clips, (model, processor), head=head)] for head in heads}
    size = processor.tokenizer.blank_token_id
    change = replace_tokenizer(
        model, processor, extend_tokenizer(processor.tokenizer, ["eleven thirteen twelve"] * 3, 8)
    )
    assert (len(change.stayed), len(change.came), len(change.went)) == (size, 8, 0)
    for head in heads:
        assert [found.text for found in transcribe(clips, (model, processor), head=head)] == before[head]
    joined = join_tokenizers({"en": processor.tokenizer, "de": train_tokenizer(["eins zwei drei vier"], 16)})
    change = replace_tokenizer(model, processor, joined)
    assert (len(change.stayed), len(change.came)) == (size + 8, 16)
    for head in heads:
        found = [found.text.strip() for found in transcribe(clips, (model, processor), head=head)]
        assert found == before[head]


@pytest.mark.parametrize("is_aggregate", [True, False])
def test_a_multitask_model_keeps_its_prompts(is_aggregate: bool, tmp_path: Path) -> None:
    path = write_canary(tmp_path / "canary.nemo", make_canary_config(is_aggregate))
    model, processor = load_model(path, device="cpu")
    old_tokenizer, old_config = processor.tokenizer, copy.deepcopy(model.config)
    features = torch.randn(2, 80, model.config.num_mel_bins, generator=torch.Generator().manual_seed(0))
    prompt = ["<|startoftranscript|>", "<|en|>", "<|pnc|>"]

    def find_logits() -> torch.Tensor:
        """Scores of all classes after each token of a prompt."""
        ids = [processor.tokenizer.prompt_token_id(token) for token in prompt]
        with torch.no_grad():
            return model(features, decoder_input_ids=torch.tensor([ids, ids])).logits

    before = find_logits()
    weight, bias = model.decoder.embedding.weight.clone(), model.token_head.bias.clone()
    texts = ["über die schöne Brücke, über die Größe"] * 2
    language = old_tokenizer.languages_of_text[0] if is_aggregate else None
    tokenizer = extend_tokenizer(old_tokenizer, texts, 5, language)
    change = replace_tokenizer(model, processor, tokenizer)
    assert (len(change.stayed), len(change.came), len(change.went)) == (old_config.num_tokens, 5, 0)
    config = model.config
    assert config.num_tokens == old_config.num_tokens + 5
    assert config.vocab_size == -(-config.num_tokens // 8) * 8
    old_tokens = old_tokenizer.vocabulary_tokens(range(old_config.num_tokens))
    new_tokens = tokenizer.vocabulary_tokens(range(config.num_tokens))
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"):
        assert new_tokens[getattr(config, name)] == old_tokens[getattr(old_config, name)]
        assert getattr(model.generation_config, name) in (None, getattr(config, name))
    assert {token: new_tokens[number] for token, number in config.prompt_token_ids.items()} == {
        token: old_tokens[number] for token, number in old_config.prompt_token_ids.items()
    }
    new_ids = tokenizer.convert_tokens_to_ids(old_tokenizer.convert_ids_to_tokens(range(old_config.num_tokens)))
    assert torch.equal(model.decoder.embedding.weight[new_ids], weight[: len(new_ids)])
    assert torch.equal(model.token_head.bias[new_ids], bias[: len(new_ids)])
    after = find_logits()
    torch.testing.assert_close(after[..., new_ids], before[..., : len(new_ids)])
    came = [number for number in range(config.num_tokens) if number not in new_ids]
    assert len(came) == 5
    assert (after[..., came].amax(-1) < after[..., new_ids].amax(-1)).all()


# Refusals


def lora_model() -> Any:
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(build_model("tdt"), peft.LoraConfig(target_modules=["head"]))


def tied_model() -> Any:
    model = build_model("ctc")
    model.copy_of_head = torch.nn.Linear(1, 1)
    model.copy_of_head.weight = model.ctc_head.weight
    return model


def quantized_model() -> Any:
    model = build_model("ctc")
    return torch.ao.quantization.quantize_dynamic(model, {"ctc_head": torch.ao.quantization.default_dynamic_qconfig})


def meta_model() -> Any:
    return build_model("ctc").to("meta")


REFUSED = {
    "encoder": (
        lambda: build_model("encoder"),
        "FastConformerEncoder has no vocabulary; expected a model with a head",
    ),
    "adapters": (lora_model, "model of type PeftModel is not supported; expected .* `merge_and_unload`"),
    "tied": (tied_model, r"ctc_head.weight is one parameter in several places, \['ctc_head.weight', 'copy_of_head"),
    "8 bits": (quantized_model, "ctc_head is a DynamicQuantizedLinear|ctc_head is a Linear and cannot get other rows"),
    "no values": (meta_model, "ctc_head.weight has no values"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_changed_is_refused_and_stays(case: str) -> None:
    make, message = REFUSED[case]
    model = make()
    processor = processor_of(build_model("ctc"))
    with pytest.raises(ValueError, match=message):
        replace_tokenizer(model, processor, character_tokenizer(list(LONGER)))
    assert processor.tokenizer.blank_token_id == len(OLD)
    assert getattr(model.config, "vocab_size", None) in (None, len(OLD) + 1)


def test_a_tokenizer_of_another_model_is_refused() -> None:
    model = build_model("ctc")
    with pytest.raises(ValueError, match="processor: the tokenizer has 13 tokens and the head 11 classes"):
        replace_tokenizer(model, processor_of(model, LONGER), character_tokenizer(list(OTHER)))
    with pytest.raises(ValueError, match="tokenizer='str' is not supported; expected a FastConformerTokenizer"):
        replace_tokenizer(model, processor_of(model), "abc")  # type: ignore[arg-type]


def test_other_ids_of_generation_are_refused() -> None:
    model = build_model("ctc")
    model.generation_config.suppress_tokens = [1]
    with pytest.raises(ValueError, match=r"generation_config.suppress_tokens=\[1\] is not supported"):
        replace_tokenizer(model, processor_of(model), character_tokenizer(list(OTHER)))
    assert model.config.vocab_size == BLANK + 1


def test_a_multitask_model_without_its_prompts_is_refused(tmp_path: Path) -> None:
    model, processor = load_model(write_canary(tmp_path / "canary.nemo", make_canary_config()), device="cpu")
    with pytest.raises(ValueError, match=r"tokenizer lacks [0-9]+ tokens of the prompts of a multitask model"):
        replace_tokenizer(model, processor, character_tokenizer(list(OLD)))


@pytest.mark.parametrize("kind", TRANSDUCERS)
def test_steps_and_states_know_the_new_blank(kind: str) -> None:
    """Decoding begins at the new blank, whose embedding is zero as before."""
    model = build_model(kind)
    replace_tokenizer(model, processor_of(model), character_tokenizer(list(LONGER)))
    embeddings = getattr(model.decoder, "embeddings", None) or [model.decoder.embedding]
    for embedding in embeddings:
        assert not embedding.weight[model.config.blank_token_id].any()
    assert getattr(model.decoder, "blank_token_id", len(LONGER)) == len(LONGER)
