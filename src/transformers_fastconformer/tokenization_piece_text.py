"""Text of the pieces of a vocabulary, all at once or as they come.

NeMo 3.0.0: `AbstractCTCDecoding` and `AbstractRNNTDecoding.decode_tokens_to_str`, `SentencePieceTokenizer`,
`AggregateTokenizer`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from .tokenization_character_map import text_from_bytes

WORD_MARK = "▁"
CONTINUATION_MARK = "##"
UNKNOWN_TEXT = " ⁇ "  # what SentencePiece writes for its unknown piece


@dataclass(frozen=True)
class PieceTextState:
    """
    State of text whose tokens come piece by piece, see [`PieceText.extend`].

    Args:
        has_pieces: There were tokens.
        has_text: They had text.
        at_start: A word mark here was put there by the encoder.
        mark_dropped: The token before lost such a mark, and the next one does not.
        unfinished_bytes: Bytes at the end that may begin a character.
    """

    has_pieces: bool = False
    has_text: bool = False
    at_start: bool = True
    mark_dropped: bool = False
    unfinished_bytes: bytes = b""


@dataclass(frozen=True)
class PieceText:
    """
    The rule by which tokens of a vocabulary become text.

    Args:
        rule: `text_rule` of [`FastConformerTokenizer`].
        tokens: The vocabulary, in the order of the ids.
        decode_pieces: Text of the pieces of a WordPiece vocabulary.
        byte_values: The byte of each token that is one.
        control_ids: Tokens without text.
        unknown_id: The token of what the vocabulary cannot write.
        unknown_text: Its text.
        add_dummy_prefix, remove_extra_whitespaces: Options of the SentencePiece model.
    """

    rule: str
    tokens: Sequence[str]
    decode_pieces: Callable[[list[str]], str]
    byte_values: Mapping[int, int]
    control_ids: Collection[int]
    unknown_id: int | None
    unknown_text: str
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool

    def extend(self, token_ids: Sequence[int], state: PieceTextState) -> tuple[str, PieceTextState]:
        """
        Text that further tokens add.

        Args:
            token_ids: The next tokens, without blanks.
            state: What the call for the tokens before returned; `PieceTextState()` at the start.

        Returns:
            The text that cannot change any more, and the state for the tokens that follow. Bytes that begin a
            character wait in it for the others.
        """
        if not len(token_ids):
            return "", state
        if self.rule == "sentencepiece":
            return self._extend_sentencepiece(token_ids, state)
        tokens = [self.tokens[token_id] for token_id in token_ids]
        if self.rule == "wordpiece":
            # The text of a piece depends on whether another one stands before it, and on nothing else.
            before = tokens[:1] if state.has_pieces else []
            start = len(self.decode_pieces(before)) if before else 0
            text = self.decode_pieces([*before, *tokens])[start:]
        else:
            text = "".join(tokens)
            text = text.replace(WORD_MARK, " ") if self.rule == "aggregate" else text
        return text, replace(state, has_pieces=True)

    def _extend_sentencepiece(self, token_ids: Sequence[int], state: PieceTextState) -> tuple[str, PieceTextState]:
        text = ""
        pending = bytearray(state.unfinished_bytes)
        drops_leading_mark = self.add_dummy_prefix or self.remove_extra_whitespaces
        at_start, mark_dropped = state.at_start, state.mark_dropped
        for token_id in token_ids:
            if token_id in self.byte_values:
                pending.append(self.byte_values[token_id])
                continue
            text += text_from_bytes(pending)[0]
            pending.clear()
            at_start = at_start and not (state.has_text or text) and not mark_dropped
            if token_id in self.control_ids:
                mark_dropped = False
            elif token_id == self.unknown_id:
                text += self.unknown_text
                mark_dropped = False
            else:
                token = self.tokens[token_id]
                mark_dropped = False
                if at_start and drops_leading_mark and token.startswith(WORD_MARK):
                    token = token[1:]
                    # Where extra spaces are removed, every leading one goes, not just the first.
                    mark_dropped = not self.remove_extra_whitespaces
                text += token.replace(WORD_MARK, " ")
        characters, num_bytes = text_from_bytes(pending, is_last=False)
        text += characters
        has_text = state.has_text or bool(text)
        return text, PieceTextState(True, has_text, at_start, mark_dropped, bytes(pending[num_bytes:]))
