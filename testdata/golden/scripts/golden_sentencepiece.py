"""Writes sentencepiece.json: small SentencePiece vocabularies as GGUF files and as tokenizer.json
carry them, with the ids that sentencepiece and tokenizers give."""
import io, json, sys
import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2 as pb
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, Unigram
from transformers.convert_slow_tokenizer import generate_merges

CORPUS = [line for name in sys.argv[2:] for line in open(name).read().split("\n") if line.strip()]
CORPUS += ["Größe und Übermut täuschen nie.", "日本語のテキスト", "naïve café déjà vu"] * 4
TEXTS = [
    "", " ", "a", " a", "  a", "a  b", "The plan is the ledger.", "The  plan   is\nthe\n\nledger.\n",
    "Größe 日本語 naïve", "emoji 🙂🙂 and 👩‍👩‍👧 here", " leading", "trailing ", "tab\there",
    "user<x>defined <x> y", "₿ unknown ∮ signs", "1234 5.6", "a" * 27, "<0x41> bytes", "ÀÈ",
    "🙂", " 🙂", "日", "\n", "\n\n x",
]
SPECIAL = ["<s>The plan</s> again", "<s> spaced </s>  twice", "<s>🙂</s>日本</s>", "</s>", "x</s>\n<s>y"]


def train(kind, size):
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=model, vocab_size=size, model_type=kind,
        byte_fallback=True, character_coverage=0.99, user_defined_symbols=["<x>"],
        normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
        minloglevel=2)
    proto = pb.ModelProto()
    proto.ParseFromString(model.getvalue())
    return spm.SentencePieceProcessor(model_proto=model.getvalue()), proto


def offsets(text, encoding):
    byte = lambda at: len(text[:at].encode())
    return [[byte(a), byte(b)] for a, b in encoding.offsets]


def document(tokenizer):
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in ["<unk>", "<s>", "</s>"]])
    tokenizer.add_tokens([AddedToken("<x>", normalized=False, special=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    cases = []
    for text in TEXTS + SPECIAL:
        encoding = tokenizer.encode(text, add_special_tokens=False)
        decoded = tokenizer.decode(encoding.ids, skip_special_tokens=False)
        cases.append({"text": text, "ids": encoding.ids, "offsets": offsets(text, encoding), "decoded": decoded})
    return {"document": json.loads(tokenizer.to_str()), "cases": cases}


def bpe(proto):
    vocab = {piece.piece: id for id, piece in enumerate(proto.pieces)}
    scores = [(piece.piece, piece.score) for piece in proto.pieces]
    merges = generate_merges(vocab, {p: s for p, s in scores})
    return Tokenizer(BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True, dropout=None))


def llama_decoder(strip):
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence(parts + ([decoders.Strip(content=" ", left=1)] if strip else []))


out = {}
sp, proto = train("bpe", 560)
pieces = proto.pieces
out["gguf"] = {
    "tokens": [p.piece for p in pieces], "scores": [p.score for p in pieces], "types": [p.type for p in pieces],
    # A space would follow the user's token in llama.cpp, and does not in sentencepiece.
    "cases": [{"text": t, "ids": sp.encode(t), "decoded": sp.decode(sp.encode(t))} for t in TEXTS if "<x>" not in t],
}
legacy = bpe(proto)
legacy.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
legacy.decoder = llama_decoder(True)
out["llama"] = document(legacy)
first = bpe(proto)
first.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
first.decoder = llama_decoder(True)
out["llama_first"] = document(first)
gemma = bpe(proto)
gemma.normalizer = normalizers.Replace(" ", "▁")
gemma.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
gemma.decoder = llama_decoder(False)
out["gemma"] = document(gemma)
sp, proto = train("unigram", 420)
unigram = Tokenizer(Unigram([(p.piece, p.score) for p in proto.pieces], 0, byte_fallback=True))
unigram.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always")
unigram.decoder = llama_decoder(True)
out["unigram"] = document(unigram)
json.dump(out, open(sys.argv[1], "w"), ensure_ascii=False, separators=(",", ":"))
