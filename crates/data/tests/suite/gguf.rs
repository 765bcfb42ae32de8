//! Byte-level vocabularies from GGUF metadata: what is honoured and what is refused.

use lowtide_data::{GgufVocab, Tokenizer, TokenizerError};
use proptest::prelude::*;

use crate::smollm2;

/// `a`, `b`, `Ġ`, `ab`, `Ġab`, a control token and a user's token.
fn small() -> GgufVocab {
    let tokens = ["a", "b", "Ġ", "ab", "Ġab", "<end>", "[x]"].map(str::to_owned).to_vec();
    GgufVocab {
        model: "gpt2".into(),
        pre: "gpt-2".into(),
        token_types: vec![1, 1, 1, 1, 1, 3, 4],
        merges: vec!["a b".into(), "Ġ ab".into()],
        bos: Some(5),
        eos: Some(5),
        tokens,
        ..GgufVocab::default()
    }
}

fn refused(change: impl FnOnce(&mut GgufVocab)) -> TokenizerError {
    let mut vocab = small();
    change(&mut vocab);
    Tokenizer::from_gguf(vocab).unwrap_err()
}

#[test]
fn merges_whole_tokens_and_offsets() {
    let tokenizer = Tokenizer::from_gguf(small()).unwrap();
    let encoding = tokenizer.encode("ab ab<end>[x]ba").unwrap();
    assert_eq!(encoding.ids, [3, 4, 5, 6, 1, 0]);
    assert_eq!(encoding.offsets, [(0, 2), (2, 5), (5, 10), (10, 13), (13, 14), (14, 15)]);
    assert!(tokenizer.is_special(5) && !tokenizer.is_special(6));
    assert_eq!(tokenizer.decode(&encoding.ids).unwrap(), "ab ab<end>[x]ba");
    assert_eq!(tokenizer.decode_plain(&encoding.ids).unwrap(), "ab ab[x]ba");
    assert_eq!(tokenizer.decode(&[3, 99]).unwrap(), "ab");
}

#[test]
fn the_file_or_else_the_habit_decides_about_bos() {
    let prefix = |pre: &str, add_bos| {
        let vocab = GgufVocab { pre: pre.into(), add_bos, ..small() };
        Tokenizer::from_gguf(vocab).unwrap().prefix().to_vec()
    };
    assert_eq!(prefix("gpt-2", None), [0_u32; 0]);
    assert_eq!(prefix("gpt-2", Some(true)), [5]);
    assert_eq!(prefix("llama-bpe", None), [5]);
    assert_eq!(prefix("llama-bpe", Some(false)), [0_u32; 0]);
    let vocab = GgufVocab { add_eos: Some(true), ..small() };
    assert_eq!(Tokenizer::from_gguf(vocab).unwrap().suffix(), [5]);
}

#[test]
fn other_kinds_are_refused_by_name() {
    let error = refused(|vocab| vocab.model = "bert".into());
    assert_eq!(error, TokenizerError::UnknownModel { model: "bert".into() });
    let error = refused(|vocab| vocab.pre = "jais".into());
    assert_eq!(error, TokenizerError::UnknownPre { pre: "jais".into() });
}

#[test]
fn contradictions_name_their_place() {
    assert_eq!(
        refused(|vocab| vocab.tokens[3] = "a".into()),
        TokenizerError::DuplicateToken { token: "a".into(), first: 0, second: 3 }
    );
    assert_eq!(
        refused(|vocab| vocab.merges[1] = "Ġ zz".into()),
        TokenizerError::MergeUnknown { index: 1, piece: "zz".into() }
    );
    assert_eq!(
        refused(|vocab| vocab.merges[0] = "b a".into()),
        TokenizerError::MergeUnknown { index: 0, piece: "ba".into() }
    );
    for merge in ["ab", "a  b", " a", "a ", "", "a b a"] {
        assert_eq!(
            refused(|vocab| vocab.merges[0] = merge.into()),
            TokenizerError::MergeShape { index: 0, merge: merge.into() }
        );
    }
    assert_eq!(
        refused(|vocab| vocab.eos = Some(7)),
        TokenizerError::SpecialOutside {
            field: "tokenizer.ggml.eos_token_id",
            id: 7,
            vocab_size: 7
        }
    );
    assert_eq!(
        refused(|vocab| vocab.token_types.truncate(2)),
        TokenizerError::TypeCount { tokens: 7, types: 2 }
    );
    assert_eq!(
        refused(|vocab| vocab.tokens.clear()),
        TokenizerError::Empty { field: "tokenizer.ggml.tokens" }
    );
    let error = refused(|vocab| vocab.merges = vec![String::new(); (1 << 23) + 1]);
    assert!(matches!(error, TokenizerError::TooMany { limit: 8_388_608, .. }));
}

#[test]
fn a_broken_merge_in_a_real_vocabulary_is_found() {
    let mut vocab = smollm2::vocab();
    vocab.tokens[40_000] = "replaced".into();
    let error = Tokenizer::from_gguf(vocab).unwrap_err();
    let index = 40_000 - 252;
    assert!(matches!(error, TokenizerError::MergeUnknown { index: at, .. } if at <= index));
}

proptest! {
    #[test]
    fn any_vocabulary_is_a_tokenizer_or_an_error(
        tokens in prop::collection::vec("[abĠ<]{0,3}", 0..12),
        kinds in prop::collection::vec(-1_i32..8, 0..12),
        merges in prop::collection::vec("[abĠ ]{0,4}", 0..4),
        pre in prop::sample::select(vec!["gpt-2", "smollm", "llama-bpe", "qwen2", "tekken", "x"]),
        ids in prop::collection::vec(prop::option::of(0_u32..20), 5),
        add in any::<(Option<bool>, Option<bool>)>(),
        text in "[abĠ< é]{0,20}",
    ) {
        let vocab = GgufVocab {
            model: "gpt2".into(),
            pre: pre.into(),
            token_types: if kinds.len() == tokens.len() { kinds } else { Vec::new() },
            tokens,
            merges,
            bos: ids[0],
            eos: ids[1],
            eot: ids[2],
            unk: ids[3],
            pad: ids[4],
            add_bos: add.0,
            add_eos: add.1,
            ..GgufVocab::default()
        };
        let size = vocab.tokens.len();
        match Tokenizer::from_gguf(vocab) {
            Ok(tokenizer) => {
                prop_assert_eq!(tokenizer.vocab_size(), size);
                let encoding = tokenizer.encode(&text).unwrap();
                prop_assert!(encoding.ids.iter().all(|&id| (id as usize) < size));
                tokenizer.decode(&encoding.ids).unwrap();
            }
            Err(error) => prop_assert!(!matches!(error, TokenizerError::Broken { .. }), "{error}"),
        }
    }
}
