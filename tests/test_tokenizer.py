"""Tags are one token in a vocabulary that has them, and the pieces of their text in one that has not."""

from medmt5.tokenizer import Tokenizer


def test_tags_are_tokens_or_the_pieces_of_their_text(tokenizer):
    plain = Tokenizer(tokenizer.model_file, labels=())
    for closing, text in ((False, "<Disease>"), (True, "</Disease>")):
        (token,) = tokenizer.tag_pieces("Disease", closing)
        assert tokenizer.piece_text(token) == text
        pieces = plain.tag_pieces("Disease", closing)
        assert len(pieces) > 1
        assert max(pieces) < plain.size == tokenizer.num_pieces
        assert plain.decode(pieces) == text
