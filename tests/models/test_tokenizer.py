"""The tokenizer: any text in any script, there and back; too long ones are named; ours stays ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from suffuse.base.errors import RunError, UsageError
from suffuse.models.tokenizer import START, TOKENIZER_FILE, Tokenizer

CAPTIONS = ("a red circle", "a blue square left of a red circle", "smiling face with heart-eyes") * 3


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.trained(CAPTIONS, 300)


@pytest.mark.parametrize(
    "text", ["a red circle", "ein Kreis, größer", "赤い丸", "красный круг", "🙂 <pad> [START]", ""]
)
def test_any_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    found = tokenizer.encode([text], 80)
    assert not found.cut
    assert found.ids[0, 0] == START
    assert found.ids.max() < tokenizer.size
    assert tokenizer.decode(found.ids[0].tolist()) == text


def test_frequent_words_are_short_and_too_long_texts_are_named(tokenizer: Tokenizer) -> None:
    found = tokenizer.encode(["a red circle", "x" * 100, "a"], 8)
    assert found.ids.shape == (3, 8)
    assert (found.ids[0] != 0).sum() == 4, "a start and a token a word"
    assert found.cut == (1,)


def test_it_is_made_the_same_again_and_read_back(tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert Tokenizer.trained(CAPTIONS, 300).hash == tokenizer.hash
    tokenizer.save(tmp_path)
    assert Tokenizer.read(tmp_path, tokenizer.hash).encode(CAPTIONS, 9).ids.tolist() == (
        tokenizer.encode(CAPTIONS, 9).ids.tolist()
    )
    with pytest.raises(UsageError, match="is not the tokenizer that this model was trained with"):
        Tokenizer.read(tmp_path, "another")
    (tmp_path / TOKENIZER_FILE).write_text("{")
    with pytest.raises(RunError, match="cannot be read as a tokenizer"):
        Tokenizer.read(tmp_path)
    with pytest.raises(UsageError, match="is missing: it turns prompts into this model's tokens"):
        Tokenizer.read(tmp_path / "elsewhere")


def test_a_vocabulary_without_room_for_the_bytes_is_refused() -> None:
    with pytest.raises(UsageError, match="vocabulary is 100, but the 256 bytes alone need as many"):
        Tokenizer.trained(CAPTIONS, 100)
