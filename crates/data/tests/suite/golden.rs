//! Ids and renderings against Hugging Face transformers.

use lowtide_data::{Message, RenderOptions};
use lowtide_testkit::golden::integers;
use proptest::prelude::*;
use serde_json::Value;

use crate::smollm2;

fn ids(value: &Value) -> Vec<u32> {
    integers(value).into_iter().map(|id| u32::try_from(id).unwrap()).collect()
}

fn check(entry: &Value) {
    let (text, expected) = (entry["text"].as_str().unwrap(), ids(&entry["ids"]));
    let tokenizer = smollm2::tokenizer();
    assert_eq!(tokenizer.encode_ids(text).unwrap(), expected, "{text:?}");
    assert_eq!(tokenizer.decode(&expected).unwrap(), text);
}

#[test]
fn paragraphs_have_the_reference_ids() {
    let golden = smollm2::golden();
    let paragraphs = golden["paragraphs"].as_array().unwrap();
    assert_eq!(paragraphs.len(), 3);
    paragraphs.iter().for_each(check);
}

#[test]
fn awkward_strings_have_the_reference_ids() {
    let golden = smollm2::golden();
    let extra = golden["tokenizer_extra"].as_array().unwrap();
    assert_eq!(extra.len(), 6);
    extra.iter().for_each(check);
}

#[test]
fn conversations_render_and_tokenize_as_the_reference() {
    let (golden, template) = (smollm2::golden(), smollm2::template());
    let chats = golden["chat"].as_array().unwrap();
    assert_eq!(chats.len(), 4);
    for chat in chats {
        let messages: Vec<Message> = chat["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|message| Message::from_json("messages", message.clone()).unwrap())
            .collect();
        let add_generation_prompt = chat["add_generation_prompt"].as_bool().unwrap();
        let options = RenderOptions { add_generation_prompt, tools: None };
        assert_eq!(template.render(&messages, options).unwrap(), chat["text"].as_str().unwrap());
        check(chat);
    }
}

#[test]
fn greedy_continuations_decode_to_their_text() {
    let golden = smollm2::golden();
    for entry in golden["greedy_base"].as_array().unwrap() {
        let text = smollm2::tokenizer().decode(&ids(&entry["new_ids"])).unwrap();
        assert_eq!(text, entry["text"].as_str().unwrap());
    }
}

#[test]
fn knows_its_special_tokens() {
    let tokenizer = smollm2::tokenizer();
    let specials = tokenizer.specials();
    assert_eq!((specials.bos, specials.eos, specials.unk), (Some(1), Some(2), Some(0)));
    assert_eq!(tokenizer.vocab_size(), 49_152);
    assert_eq!(tokenizer.token_id("<|im_end|>"), Some(2));
    assert_eq!(tokenizer.token(198).as_deref(), Some("Ċ"));
    assert_eq!(tokenizer.token_id("no such token"), None);
    assert!((0..17).all(|id| tokenizer.is_special(id)) && !tokenizer.is_special(17));
    assert_eq!((tokenizer.prefix(), tokenizer.suffix()), (&[][..], &[][..]));
    assert_eq!(
        tokenizer.decode_plain(&[1, 28120, 2]).unwrap(),
        tokenizer.decode(&[28120]).unwrap()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn offsets_cover_any_text_in_order(text in "(\\PC|[ \t\r\n]|<\\|im_end\\|>){0,40}") {
        let encoding = smollm2::tokenizer().encode(&text).unwrap();
        prop_assert_eq!(encoding.ids.len(), encoding.offsets.len());
        let mut covered = 0;
        for &(start, end) in &encoding.offsets {
            // Tokens that share a character share its range; nothing else overlaps.
            prop_assert!(start < end && (start >= covered || end == covered));
            prop_assert!(text.get(start..end).is_some());
            covered = end;
        }
        // A few bytes are in no token of this vocabulary; all text in use is covered.
        if encoding.offsets.iter().map(|&(a, b)| b - a).sum::<usize>() == text.len() {
            prop_assert_eq!(smollm2::tokenizer().decode(&encoding.ids).unwrap(), text);
        }
    }
}
