//! The joining against a plain reading of the published algorithm.

use proptest::prelude::*;

use super::*;

/// Joins the best pair, leftmost of equals, until none is left, looking at all of them each time.
fn by_brute_force(text: &str, score: impl Fn(&str) -> Option<f32>) -> Vec<String> {
    let mut pieces: Vec<String> = text.chars().map(String::from).collect();
    loop {
        let mut best: Option<(f32, usize)> = None;
        for left in 1..pieces.len() {
            let joined = [pieces[left - 1].as_str(), &pieces[left]].concat();
            if let Some(score) = score(&joined)
                && best.is_none_or(|(other, _)| score > other)
            {
                best = Some((score, left - 1));
            }
        }
        let Some((_, left)) = best else { return pieces };
        let right = pieces.remove(left + 1);
        pieces[left].push_str(&right);
    }
}

fn joined(text: &str, score: impl Fn(&str) -> Option<f32>) -> Vec<String> {
    join(text, score).into_iter().map(|range| text[range].to_owned()).collect()
}

#[test]
fn the_best_score_goes_first_and_of_equals_the_leftmost() {
    let scores = |piece: &str| match piece {
        "ab" => Some(-2.0),
        "bc" => Some(-1.0),
        "abc" => Some(-3.0),
        "aa" | "aaa" => Some(-5.0),
        _ => None,
    };
    assert_eq!(joined("abc", scores), ["abc"]);
    assert_eq!(joined("abbc", scores), ["ab", "bc"]);
    assert_eq!(joined("aaaa", scores), ["aaa", "a"]);
    assert_eq!(joined("", scores), [""; 0]);
}

#[test]
fn what_no_token_spells_becomes_bytes_or_is_unknown() {
    let tokens = ["<unk>", "ab", "<0xC3>", "<0xA9>", "a"].map(str::to_owned).to_vec();
    let role = |id| match id {
        0 => Role::Apart,
        2 => Role::Byte(0xc3),
        3 => Role::Byte(0xa9),
        _ => Role::Text,
    };
    let model = |unk| Spm::new(tokens.clone(), vec![0.0; 5], role, unk);
    let spelled = |text: &str| {
        let tokens = model(Some(0)).tokenize(text).unwrap().into_iter();
        tokens.map(|token| (token.id, token.offsets)).collect::<Vec<_>>()
    };
    // `b` is no token, and `ab` is one all the same.
    assert_eq!(spelled("aab"), [(4, (0, 1)), (1, (1, 3))]);
    assert_eq!(spelled("é"), [(2, (0, 1)), (3, (1, 2))]);
    // Both bytes of `è` would be needed, and unknowns in a row are one.
    assert_eq!(spelled("aèbba"), [(4, (0, 1)), (0, (1, 5)), (4, (5, 6))]);
    let error = model(None).tokenize("è").unwrap_err().to_string();
    assert!(error.starts_with("no token spells \"è\""), "{error}");
    // The token of a byte is not made of its spelling.
    assert_eq!(model(Some(0)).token_to_id("<0xC3>"), Some(2));
    assert_eq!(model(Some(0)).text("<0xC3>"), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn equals_the_brute_force(
        tokens in prop::collection::hash_map("[abé▁]{2,5}", -6_i8..3, 0..40),
        text in "[abé▁]{0,40}",
    ) {
        let score = |piece: &str| tokens.get(piece).map(|&score| f32::from(score));
        prop_assert_eq!(joined(&text, score), by_brute_force(&text, score));
    }
}
