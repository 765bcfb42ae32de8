//! The real model: vocabulary there and back, and what a conversion holds. In a binary of its own:
//! the numbers are those of the process.

mod support;

use std::time::Duration;

use lowtide_convert::{Kind, convert};
use lowtide_data::{GgufVocab, Tokenizer};
use lowtide_formats::{Base, TokenizerSource};
use lowtide_testkit::{models::smollm2, rss::Sampler};
use support::{run, settings};

/// What a conversion may hold beyond its budget.
const SLACK_BYTES: u64 = 2 << 20;

#[test]
fn smollm2_goes_to_a_folder_and_back_within_its_budget() {
    let Some(source) = smollm2() else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    // Threads and whatever is made on first use exist before anything is measured.
    let tiny = support::golden("llama_tied");
    run(&tiny, &path("tiny.gguf"), Some(Kind::Q8_0));
    for (from, to, kind) in [
        (source.clone(), path("folder"), Some(Kind::BF16)),
        (path("folder"), path("q8.gguf"), Some(Kind::Q8_0)),
    ] {
        let settings = settings(&from, &to, kind);
        let sampler = Sampler::start(Duration::from_millis(2));
        let report = convert(&settings, &mut |_| ()).unwrap();
        assert!(report.peak_bytes <= settings.memory_budget);
        if let Some(peak) = sampler.map(Sampler::stop) {
            let growth = peak.anon_growth();
            assert!(growth <= settings.memory_budget + SLACK_BYTES, "{growth}");
        }
        assert_eq!(report.parameters, 134_515_008);
    }
    let open = |path| Base::open(path).unwrap();
    let (first, folder, last) = (open(&source), open(&path("folder")), open(&path("q8.gguf")));
    let template = first.chat_template();
    assert!(template.is_some() && template == folder.chat_template());
    assert_eq!(template, last.chat_template());
    let tokenizer = |base: &Base| match base.tokenizer_source().unwrap() {
        TokenizerSource::Gguf(tokenizer) => tokenizer,
        other => panic!("{other:?}"),
    };
    let (a, b) = (tokenizer(&first), tokenizer(&last));
    assert!(a.tokens == b.tokens && a.merges == b.merges && a.token_types == b.token_types);
    assert_eq!((a.model, a.pre, a.bos, a.eos, a.pad), (b.model, b.pre, b.bos, b.eos, b.pad));
    assert_eq!((a.unk, b.add_bos), (b.unk, Some(a.add_bos.unwrap_or(false))));
    assert_eq!(first.eos_token_ids(), last.eos_token_ids());
    same_ids(&path("folder"), &first);
}

/// The tokenizer of the folder gives the ids of the one it was made from.
fn same_ids(folder: &std::path::Path, first: &Base) {
    let TokenizerSource::Gguf(source) = first.tokenizer_source().unwrap() else { unreachable!() };
    let vocab = GgufVocab {
        model: source.model,
        pre: source.pre.unwrap_or_default(),
        tokens: source.tokens,
        token_types: source.token_types,
        merges: source.merges,
        ..GgufVocab::default()
    };
    let (ours, theirs) =
        (Tokenizer::from_hf_folder(folder).unwrap(), Tokenizer::from_gguf(vocab).unwrap());
    let texts =
        ["Hello, world! 1234", "<|im_start|>user\nschön\n\n  x = 3;<|im_end|>", "日本語 🙂"];
    for text in texts {
        assert_eq!(ours.encode_ids(text).unwrap(), theirs.encode_ids(text).unwrap(), "{text}");
    }
}
