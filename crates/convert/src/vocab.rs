//! The vocabulary of a base, in the words of either kind of file.

use lowtide_data::GgufVocab;
use lowtide_data::tokenizer::TokenizerConfig;
use lowtide_formats::gguf::{Value, Writer};
use lowtide_formats::{Base, GgufTokenizer, TokenizerSource};

use crate::ConvertError;

/// Tokens that end a turn, by the names that families give them: programs stop at them.
const TURN_ENDS: [&str; 5] =
    ["<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|eom_id|>", "<|endoftext|>"];

/// The vocabulary of an HF folder as GGUF says it; `None` if it has no tokenizer.
pub(crate) fn of_folder(base: &Base) -> Result<Option<GgufVocab>, ConvertError> {
    let Some(folder) = base.folder().filter(|folder| folder.tokenizer_json().is_some()) else {
        return Ok(None);
    };
    let of_base = |source| ConvertError::Tokenizer { path: folder.dir().to_path_buf(), source };
    let rows = base.hyper().vocab_size;
    let mut vocab = GgufVocab::from_hf_folder(folder.dir(), rows).map_err(of_base)?;
    let stops = base.eos_token_ids();
    // The folder may say what ends a text in one file and what ends a turn in the other.
    vocab.eos = vocab.eos.or_else(|| stops.first().copied());
    let text = |id: u32| vocab.tokens.get(id as usize).map(String::as_str);
    let ends_turn = |id: &u32| text(*id).is_some_and(|token| TURN_ENDS.contains(&token));
    vocab.eot = stops.iter().copied().find(|id| Some(*id) != vocab.eos && ends_turn(id));
    Ok(Some(vocab))
}

/// Adds a vocabulary to the metadata of a GGUF file.
pub(crate) fn put(writer: &mut Writer, vocab: GgufVocab) {
    let GgufVocab { model, pre, tokens, token_types, merges, scores, .. } = vocab;
    let scored = !scores.is_empty();
    let mut put = |key: &str, value| writer.metadata(&format!("tokenizer.ggml.{key}"), value);
    put("model", Value::Str(model));
    put("pre", Value::Str(pre));
    put("tokens", Value::Strings(tokens));
    put("token_type", Value::I32s(token_types));
    if scored {
        put("scores", Value::F32s(scores));
    } else {
        put("merges", Value::Strings(merges));
    }
    for (key, id) in [
        ("bos_token_id", vocab.bos),
        ("eos_token_id", vocab.eos),
        ("eot_token_id", vocab.eot),
        ("unknown_token_id", vocab.unk),
        ("padding_token_id", vocab.pad),
    ] {
        if let Some(id) = id {
            put(key, id.into());
        }
    }
    for (key, truth) in [
        ("add_bos_token", vocab.add_bos),
        ("add_eos_token", vocab.add_eos),
        ("add_space_prefix", vocab.add_space_prefix),
    ] {
        if let Some(truth) = truth {
            put(key, truth.into());
        }
    }
}

/// The files that say a vocabulary in an HF folder.
pub(crate) struct Files {
    pub(crate) tokenizer: serde_json::Value,
    pub(crate) config: serde_json::Value,
}

/// The tokenizer of a GGUF file as HF says it; `None` if it has none.
pub(crate) fn files(base: &Base) -> Result<Option<Files>, ConvertError> {
    let TokenizerSource::Gguf(tokenizer) = base.tokenizer_source()? else { return Ok(None) };
    let of_base = |source| ConvertError::Tokenizer { path: base.path().to_path_buf(), source };
    let vocab = vocab_of(tokenizer);
    let document = vocab.to_json().map_err(of_base)?;
    let token = |id: Option<u32>| id.and_then(|id| vocab.tokens.get(id as usize));
    let mut config = serde_json::json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": token(vocab.bos),
        "eos_token": token(vocab.eos),
        "unk_token": token(vocab.unk),
        "pad_token": token(vocab.pad),
        "clean_up_tokenization_spaces": false,
        "model_max_length": base.hyper().max_position_embeddings,
    });
    if let Some(template) = base.chat_template() {
        config["chat_template"] = template.into();
    }
    // What was written is read once, so that nobody else is the first to find it wanting.
    let bytes = serde_json::to_vec(&config).expect("a document that was just made");
    TokenizerConfig::from_json_bytes(&bytes).map_err(of_base)?;
    Ok(Some(Files { tokenizer: document, config }))
}

/// The tokenizer of a GGUF file as the vocabulary that tokenizers are made of.
#[must_use]
pub fn vocab_of(tokenizer: GgufTokenizer) -> GgufVocab {
    let GgufTokenizer {
        model,
        pre,
        tokens,
        token_types,
        merges,
        scores,
        bos,
        eos,
        eot,
        unk,
        pad,
        add_bos,
        add_eos,
        add_space_prefix,
    } = tokenizer;
    let pre = pre.unwrap_or_default();
    GgufVocab {
        model,
        pre,
        tokens,
        token_types,
        merges,
        scores,
        bos,
        eos,
        eot,
        unk,
        pad,
        add_bos,
        add_eos,
        add_space_prefix,
    }
}

/// Words about a tokenizer that is left out.
pub(crate) const NONE: &str =
    "the source has no tokenizer: the output works with token ids only, and not in llama.cpp";
