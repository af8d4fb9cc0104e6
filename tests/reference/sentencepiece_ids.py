"""Two small SentencePiece vocabularies as GGUF metadata, and sentencepiece's own ids of awkward texts.

    python tests/reference/sentencepiece_ids.py   (sentencepiece 0.2.3, gguf 0.19)

Trains BPE models on the project's own sets and writes crates/model/tests/fixtures/gguf_files/sentencepiece_{llama,gemma}.{gguf,json}:
`llama` puts a space before the text, `gemma` does not, and has user-defined runs of spaces and line ends, whose `▁` become
spaces as llama.cpp's converter does it.
"""
import io, json, pathlib
import gguf, sentencepiece
from tokenizer_ids import TEXTS

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "crates/model/tests/fixtures/gguf_files"
KINDS = {"is_control": 3, "is_unknown": 2, "is_byte": 6, "is_unused": 5}


def corpus():
    for name in ("broad", "neutral", "code"):
        for line in open(ROOT / f"crates/data/sets/{name}.jsonl", encoding="utf-8"):
            yield from (v for k, v in json.loads(line).items() if k != "id" and isinstance(v, str))


def make(name, prefix, user_defined):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=corpus(), model_writer=model, model_type="bpe", vocab_size=900, byte_fallback=True, character_coverage=0.999,
        normalization_rule_name="identity", add_dummy_prefix=prefix, remove_extra_whitespaces=False, user_defined_symbols=user_defined,
        split_digits=True, allow_whitespace_only_pieces=True, num_threads=1, minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    tokens, scores, kinds = [], [], []
    for i in range(pieces.vocab_size()):
        token, kind = pieces.id_to_piece(i), next((k for test, k in KINDS.items() if getattr(pieces, test)(i)), 1)
        if token in user_defined:
            token, kind = token.replace("▁", " "), 4
        tokens.append(token.encode())
        scores.append(pieces.get_score(i))
        kinds.append(kind)
    writer = gguf.GGUFWriter(OUT / f"sentencepiece_{name}.gguf", "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(pieces.bos_id())
    writer.add_eos_token_id(pieces.eos_id())
    writer.add_unk_token_id(pieces.unk_id())
    writer.add_add_space_prefix(prefix)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    texts = [*TEXTS, "a  b   c    d", "x\n\ny\n\n\n\nz", "    indented\n        more", "<0x41>", "▁already▁", "<s>hi</s>", "<unk>"]
    rows = [json.dumps({"text": t, "ids": pieces.encode(t), "decoded": pieces.decode(pieces.encode(t))}) for t in texts]
    made = f"tests/reference/sentencepiece_ids.py, sentencepiece {sentencepiece.__version__}"
    (OUT / f"sentencepiece_{name}.json").write_text(f'{{"made_with": {json.dumps(made)}, "texts": [\n' + ",\n".join(rows) + "\n]}\n")


def main():
    make("llama", True, [])
    make("gemma", False, ["\n\n", "\n\n\n", "▁▁", "▁▁▁", "▁▁▁▁", "<tool>"])
    for file in sorted(OUT.glob("sentencepiece_*")):
        print(file.name, file.stat().st_size)


if __name__ == "__main__":
    main()
