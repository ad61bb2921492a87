"""Options of decoding: one object for `generate`, files, the pipeline, the command and all other callers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

from ..configuration_fastconformer import DECODING_STRATEGIES
from ..validation import is_number, require, require_choice, require_count
from .beam_options import BeamOptions
from .confidence import ConfidenceOptions
from .language_mask import CompiledLanguages
from .phrase_boosting import CompiledPhrases, PhraseBoosting
from .prompts import PROMPT_OPTIONS, PromptOptions
from .search import SearchOptions
from .token_automaton import TokenAutomaton
from .token_scorer import TokenScorer

# Weight that NeMo's authors give for language models.
LANGUAGE_MODEL_WEIGHT = 0.2

Boosting = PhraseBoosting | CompiledPhrases


@dataclass(frozen=True)
class DecodingOptions:
    r"""
    Options of decoding.

    The model's `check_decoding` checks the rest that only the model can tell, such as the languages that it knows. A
    new option is a field here and the line that reads it.

    Args:
        language: Code of the language of all clips, or a list with the code of each clip, for models with language
            prompts (`config.prompt_languages`); None (default) is `config.default_language`. For multitask models the
            language that is spoken and written: `source_lang` and `target_lang` at once. Models that are told nothing
            write only what the language is written with, see `languages`.
        languages: Codes of the languages that may be written, for models that are not told a language: only their
            letters are decoded, in every decoder and beam; or what `compile_languages` makes of them, for all clips or
            for each. None (default): all.
        max_symbols_per_step: Largest number of tokens on one frame, for transducers; None (default) is
            `config.max_symbols_per_step`.
        confidence: Measure of the confidences that are returned; None (default): confidences are not returned.
        decoding_strategy: `"greedy_batch"` or `"greedy"`, NeMo's rules for a frame that has that many tokens, for
            transducers; None (default) is `config.decoding_strategy`.
        boosting: Phrases that decoding prefers: [`PhraseBoosting`], what `compile_phrases` makes of it, or a list with
            one of these or None for each clip; None (default): nothing.
        language_model: A [`NgramLanguageModel`] whose scores are added to the model's; None (default): nothing.
        language_model_weight: Weight of its scores (NeMo: `ngram_lm_alpha`); None (default): 0.2.
        num_beams: Texts that a beam search holds: short for `beam=BeamOptions(num_beams=...)`; None (default) and 1
            without `beam`: greedy decoding.
        beam: [`BeamOptions`], all options of a beam search; None (default): see `num_beams`.
        source_lang, target_lang, task, pnc, itn, timestamps, diarize, emotion, context: The prompt of multitask
            models, see [`PromptOptions`]; None (default) is the checkpoint's.
        search: Beams or sampling of multitask models by Transformers' rules; None (default) is the search of the
            checkpoint.

    Raises:
        ValueError: for a value that no model accepts; the message names the option.
    """

    language: str | Sequence[str] | None = None
    max_symbols_per_step: int | None = None
    confidence: ConfidenceOptions | None = None
    decoding_strategy: str | None = None
    boosting: Boosting | Sequence[Boosting | None] | None = None
    language_model: Any = None
    language_model_weight: float | None = None
    num_beams: int | None = None
    beam: BeamOptions | None = None
    source_lang: str | None = None
    target_lang: str | None = None
    task: str | None = None
    pnc: bool | None = None
    itn: bool | None = None
    timestamps: bool | None = None
    diarize: bool | None = None
    emotion: str | None = None
    context: str | Sequence[int] | None = None
    search: SearchOptions | None = None
    languages: str | Sequence[str] | CompiledLanguages | Sequence[CompiledLanguages] | None = None

    def __post_init__(self) -> None:
        language = self.language
        if language is not None and not isinstance(language, str):
            is_list = isinstance(language, Sequence) and all(isinstance(code, str) for code in language)
            require(is_list, "language", language, "the code of a language, one for each clip, or None")
            object.__setattr__(self, "language", tuple(language))
        self._check_languages()
        if self.max_symbols_per_step is not None:
            require_count("max_symbols_per_step", self.max_symbols_per_step)
        require_choice("decoding_strategy", self.decoding_strategy, (*DECODING_STRATEGIES, None))
        is_known = self.confidence is None or isinstance(self.confidence, ConfidenceOptions)
        require(is_known, "confidence", self.confidence, "ConfidenceOptions or None")
        is_search = self.search is None or isinstance(self.search, SearchOptions)
        require(is_search, "search", self.search, "SearchOptions or None")
        self._check_scores()
        self._join_beams()
        object.__setattr__(self, "context", self.prompt.context)  # checked, and hashable

    def _check_languages(self) -> None:
        languages = self.languages
        if isinstance(languages, str):
            languages = (languages,)
        if isinstance(languages, list | tuple):
            languages = tuple(languages)
            is_one_kind = any(all(isinstance(one, kind) for one in languages) for kind in (str, CompiledLanguages))
            require(bool(languages) and is_one_kind, "languages", languages, "codes of languages, or None")
        else:
            is_known = languages is None or isinstance(languages, CompiledLanguages)
            require(is_known, "languages", languages, "codes of languages, or None")
        object.__setattr__(self, "languages", languages)

    def _join_beams(self) -> None:
        """Let `num_beams`, `beam` and `search` say the same."""
        require(isinstance(self.beam, BeamOptions | None), "beam", self.beam, "BeamOptions or None")
        if self.beam is not None and self.beam.strategy == "maes_batch" and self.max_symbols_per_step is not None:
            raise ValueError(
                f"max_symbols_per_step={self.max_symbols_per_step} is not read by strategy='maes_batch'; expected "
                "maes_num_steps of BeamOptions."
            )
        if self.num_beams is not None:
            require_count("num_beams", self.num_beams)
        said = {"num_beams": self.num_beams}
        said |= {"beam": None if self.beam is None else self.beam.num_beams}
        said |= {"search": None if self.search is None else self.search.num_beams}
        counts = {count for count in said.values() if count is not None}
        if len(counts) > 1:
            raise ValueError(f"num_beams: {said} contradict one another; expected one number of beams.")
        if not counts:
            return
        num_beams = counts.pop()
        object.__setattr__(self, "num_beams", num_beams)
        # Which of the two is read depends on the decoder.
        if self.beam is None and num_beams > 1:
            object.__setattr__(self, "beam", BeamOptions(num_beams=num_beams))
        object.__setattr__(self, "search", replace(self.search or SearchOptions(), num_beams=num_beams))

    def _check_scores(self) -> None:
        boosting = self.boosting
        if isinstance(boosting, list | tuple):
            boosting = tuple(boosting)
            object.__setattr__(self, "boosting", boosting)
        each = boosting if isinstance(boosting, tuple) else (boosting,)
        is_known = len(each) > 0 and all(one is None or isinstance(one, Boosting) for one in each)
        require(is_known, "boosting", boosting, "PhraseBoosting, one for each clip, or None")
        model, weight = self.language_model, self.language_model_weight
        is_model = model is None or isinstance(getattr(model, "automaton", None), TokenAutomaton)
        require(is_model, "language_model", model, "a NgramLanguageModel or None")
        is_weight = weight is None or (is_number(weight) and weight > 0)
        require(is_weight, "language_model_weight", weight, "a number above 0, or None")
        if weight is not None and model is None:
            raise ValueError(f"language_model_weight={weight} needs language_model; found None.")

    def make_scorer(self, batch_size: int, vocab_size: int) -> TokenScorer | None:
        """
        The scores that are added to those of the model; None without phrases, language model and languages.

        Args:
            batch_size: Number of clips.
            vocab_size: Number of tokens of the model, without the blank.

        Raises:
            ValueError: for phrases that are not compiled, for those or a language model of another vocabulary, and
                for a list of another length than the batch.
        """
        automata: list[TokenAutomaton | list[TokenAutomaton]] = []
        if isinstance(self.boosting, tuple):
            nothing = _empty(vocab_size)
            automata.append([nothing if one is None else _compiled(one) for one in self.boosting])
        elif self.boosting is not None:
            automata.append(_compiled(self.boosting))  # type: ignore[arg-type]
        if self.language_model is not None:
            automata.append(self.language_model.automaton.scaled(self.language_model_weight or LANGUAGE_MODEL_WEIGHT))
        if isinstance(self.languages, CompiledLanguages):
            automata.append(self.languages.automaton)
        elif self.languages is not None:
            automata.append([_mask_of(one) for one in self.languages])
        if not automata:
            return None
        scorer = TokenScorer(automata)
        scorer.check(batch_size, vocab_size)
        return scorer

    @property
    def codes_of_text(self) -> tuple[str, ...] | None:
        """Codes of the languages that the text may be in; None: any."""
        if isinstance(self.languages, CompiledLanguages):
            return self.languages.codes
        if self.languages is not None:
            return tuple(code for one in self.languages for code in ([one] if isinstance(one, str) else one.codes))
        code = self.target_lang or self.language
        return (code,) if isinstance(code, str) else code  # type: ignore[return-value]

    def require_one_text(self) -> None:
        """Raise a `ValueError` where several texts of each clip are asked for, which only `generate` returns."""
        num_best = 1 if self.beam is None else self.beam.num_best
        require(num_best == 1, "num_best", num_best, "1: several texts of a clip are for generate")

    @property
    def prompt(self) -> PromptOptions:
        """
        The options of the prompt.

        Raises:
            ValueError: for a value that no model accepts, and for a `language` that the others contradict.
        """
        options = PromptOptions(**{name: getattr(self, name) for name in PROMPT_OPTIONS})
        if not isinstance(self.language, str):
            return options
        for name in ("source_lang", "target_lang"):
            if getattr(self, name) not in (None, self.language):
                raise ValueError(
                    f"{name}={getattr(self, name)!r} contradicts language={self.language!r}, which is both languages."
                )
        return replace(options, source_lang=self.language, target_lang=self.language)

    @classmethod
    def of(cls, decoding: DecodingOptions | None, keywords: Mapping[str, Any]) -> DecodingOptions:
        """
        Join options that a caller gives whole and one by one.

        Args:
            decoding: All of them, or None for the defaults.
            keywords: Fields by name; those that are None are not used.

        Raises:
            ValueError: for a name that is not a field, and for a value that contradicts `decoding`.
        """
        names = [field.name for field in fields(cls)]
        given = {name: value for name, value in keywords.items() if value is not None}
        unknown = sorted(set(given) - set(names))
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: not an option of decoding; expected some of {', '.join(names)}.")
        is_known = decoding is None or isinstance(decoding, DecodingOptions)
        require(is_known, "decoding", decoding, "DecodingOptions or None")
        decoding = decoding or DEFAULT_DECODING
        for name, value in given.items():
            if getattr(decoding, name) not in (None, value):
                raise ValueError(f"{name}={value!r} contradicts decoding, which has {getattr(decoding, name)!r}.")
        return replace(decoding, **given)

    def asked_for(self) -> dict[str, Any]:
        """The options that are not at their defaults, by name."""
        default = DecodingOptions()
        asked = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if getattr(self, field.name) != getattr(default, field.name)
        }
        if self.num_beams is not None:
            # What only says the number of beams again.
            for name, again in (("beam", BeamOptions), ("search", SearchOptions)):
                if asked.get(name) == again(num_beams=self.num_beams) and (name == "search" or self.num_beams > 1):
                    del asked[name]
        return asked

    def describe(self) -> dict[str, Any]:
        """The options that are not at their defaults as plain values; phrases and models by a hash."""
        plain = {"boosting", "language_model", "beam"}
        return {name: repr(value) if name in plain else value for name, value in self.asked_for().items()}


def _compiled(boosting: Boosting) -> TokenAutomaton:
    if isinstance(boosting, PhraseBoosting):
        raise ValueError(
            f"boosting={boosting!r} is not yet made of tokens; expected compile_phrases(boosting, tokenizer), since a "
            "model has no tokenizer. transcribe, the pipeline and streams take it as it is."
        )
    return boosting.automaton


def _mask_of(languages: Any) -> TokenAutomaton:
    if not isinstance(languages, CompiledLanguages):
        raise ValueError(
            f"languages: {languages!r} is not yet made of tokens; expected compile_languages(languages, tokenizer), "
            "since a model has no tokenizer. transcribe, the pipeline and streams take codes as they are."
        )
    return languages.automaton


@cache
def _empty(vocab_size: int) -> TokenAutomaton:
    return TokenAutomaton.empty(vocab_size)


DEFAULT_DECODING = DecodingOptions()
