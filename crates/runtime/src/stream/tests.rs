//! Pieces of text over a vocabulary of single bytes.

use lowtide_data::GgufVocab;
use lowtide_testkit::text::byte_tokens;
use proptest::prelude::*;

use super::*;

/// A byte-level tokenizer without merges: every byte is a token.
fn bytes() -> Tokenizer {
    let mut tokens = byte_tokens();
    tokens.push("<|end|>".into());
    let mut token_types = vec![1; 256];
    token_types.push(3);
    Tokenizer::from_gguf(GgufVocab {
        model: "gpt2".into(),
        pre: "smollm".into(),
        tokens,
        token_types,
        eos: Some(256),
        ..GgufVocab::default()
    })
    .unwrap()
}

/// The pieces of a text, and whether it was stopped.
fn pieces(text: &str, stops: &[&str]) -> (Vec<String>, bool) {
    let (tokenizer, stops) = (bytes(), stops.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
    let mut stream = TextStream::new(&tokenizer, &stops);
    let mut pieces = Vec::new();
    for byte in text.bytes() {
        pieces.push(stream.push(byte.into()).unwrap());
        if stream.stopped() {
            return (pieces, true);
        }
    }
    pieces.push(stream.finish().unwrap());
    (pieces, false)
}

#[test]
fn a_character_comes_whole() {
    let (got, _) = pieces("a\u{e9}\u{1f642}!", &[]);
    assert_eq!(got, ["a", "", "\u{e9}", "", "", "", "\u{1f642}", "!", ""]);
    let (got, _) = pieces("\u{65e5}", &[]);
    assert_eq!(got.concat(), "\u{65e5}");
}

#[test]
fn half_a_character_at_the_end_is_marked_as_one() {
    let tokenizer = bytes();
    let mut stream = TextStream::new(&tokenizer, &[]);
    assert_eq!(stream.push(0xe6).unwrap(), "");
    assert_eq!(stream.finish().unwrap(), "\u{fffd}");
}

#[test]
fn control_tokens_give_no_text() {
    let tokenizer = bytes();
    let mut stream = TextStream::new(&tokenizer, &[]);
    let got: Vec<_> = [97, 256, 98].map(|id| stream.push(id).unwrap()).into();
    assert_eq!(got, ["a", "", "b"]);
}

#[test]
fn what_is_no_text_is_not_kept_for_long() {
    let tokenizer = bytes();
    let mut stream = TextStream::new(&tokenizer, &[]);
    for id in [97, 256].into_iter().chain([256; 99]) {
        let piece = stream.push(id).unwrap();
        assert_eq!(piece, if id == 97 { "a" } else { "" });
        assert!(stream.ids.len() <= HELD_MAX);
    }
    let got: Vec<_> = (0..40).map(|_| stream.push(0xff).unwrap()).collect();
    let told: String = got.concat();
    assert!(told.len() >= 3 * HELD_MAX / 2 && told.chars().all(|c| c == '\u{fffd}'), "{told}");
    assert!(stream.push(98).unwrap().ends_with("\u{fffd}b"));
    assert_eq!(stream.push(99).unwrap(), "c");
    assert!(stream.ids.len() <= 2, "{:?}", stream.ids);
}

#[test]
fn stop_strings_are_found_across_tokens_and_never_shown() {
    let (got, stopped) = pieces("one END two", &["END"]);
    assert!(stopped);
    assert_eq!(got.concat(), "one ");
    let (got, stopped) = pieces("one EN", &["END"]);
    assert!(!stopped);
    assert_eq!(got.concat(), "one EN");
    assert_eq!(got[5], "", "what may begin a stop string is held back");
    assert_eq!(pieces("ENEND", &["END"]).0.concat(), "EN");
    assert_eq!(pieces("abcd", &["", "cd", "bc"]).0.concat(), "a");
    assert_eq!(pieces("a\u{e9}b", &["\u{e9}"]).0.concat(), "a");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn pieces_join_to_the_text_before_the_first_stop(
        text in "[ab\u{e9}\u{1f642}]{0,24}",
        stop in "[ab\u{e9}]{1,3}",
    ) {
        let (got, stopped) = pieces(&text, &[&stop]);
        prop_assert_eq!(stopped, text.contains(&stop));
        prop_assert_eq!(got.concat(), text.split(&stop).next().unwrap());
    }
}
