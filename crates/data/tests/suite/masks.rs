//! Which tokens carry loss, token by token.

use lowtide_data::encode::{Encoder, Example};
use lowtide_data::record::Record;
use lowtide_data::{ChatTemplate, Message, NO_LOSS, RecordError};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::smollm2;

/// Ids of `<|im_start|>` and `<|im_end|>`.
const START: i32 = 1;
const END: i32 = 2;

fn encoder(template: Option<&ChatTemplate>) -> Encoder<'_> {
    Encoder {
        tokenizer: Some(smollm2::tokenizer()),
        template,
        mask_prompt: true,
        append_eos: true,
        vocab_size: None,
    }
}

fn record(value: &Value) -> Record {
    Record::from_json_line(value.to_string().as_bytes()).unwrap()
}

fn encode(value: &Value) -> Example {
    encoder(Some(&smollm2::template())).encode(&record(value)).unwrap()
}

fn turn(role: &str, content: &str) -> Value {
    json!({ "role": role, "content": content })
}

/// The text of each run of labelled tokens.
fn labelled(example: &Example) -> Vec<String> {
    let tokens: Vec<(u32, i32)> =
        example.ids.iter().copied().zip(example.labels.iter().copied()).collect();
    tokens
        .split(|&(_, label)| label == NO_LOSS)
        .filter(|run| !run.is_empty())
        .map(|run| {
            assert!(run.iter().all(|&(id, label)| i64::from(id) == i64::from(label)));
            let ids: Vec<u32> = run.iter().map(|&(id, _)| id).collect();
            smollm2::tokenizer().decode(&ids).unwrap()
        })
        .collect()
}

#[test]
fn two_turns_token_by_token() {
    let example = encode(&json!({ "messages": [
        turn("user", "What is the capital of France?"),
        turn("assistant", "The capital of France is Paris."),
        turn("user", "And of Italy?"),
        turn("assistant", "Rome."),
    ]}));
    let tokenizer = smollm2::tokenizer();
    let table: Vec<(String, bool)> = example
        .ids
        .iter()
        .zip(&example.labels)
        .map(|(&id, &label)| (tokenizer.decode(&[id]).unwrap(), label != NO_LOSS))
        .collect();
    let from = table.iter().position(|(token, _)| token == "?").unwrap();
    let masked = |tokens: &[&str]| tokens.iter().map(|t| ((*t).to_owned(), false)).collect();
    let learned = |tokens: &[&str]| tokens.iter().map(|t| ((*t).to_owned(), true)).collect();
    let expected: [Vec<(String, bool)>; 4] = [
        masked(&["?", "<|im_end|>", "\n", "<|im_start|>", "ass", "istant", "\n"]),
        learned(&["The", " capital", " of", " France", " is", " Paris", ".", "<|im_end|>"]),
        masked(&[
            "\n",
            "<|im_start|>",
            "user",
            "\n",
            "And",
            " of",
            " Italy",
            "?",
            "<|im_end|>",
            "\n",
            "<|im_start|>",
            "ass",
            "istant",
            "\n",
        ]),
        learned(&["Rome", ".", "<|im_end|>"]),
    ];
    let mut expected = expected.concat();
    expected.push(("\n".into(), false));
    assert_eq!(&table[from..], expected);
    assert!(table[..from].iter().all(|(_, learned)| !learned));
    assert_eq!(example.prompt_len, from + 7);
}

#[test]
fn every_end_of_turn_carries_loss_whatever_the_turn_says() {
    for content in ["", "x\n\n", "<|im_end|>", "a <|im_end|> b", "é🙂", "user", "x "] {
        assert_eq!(both_turns(content), vec![format!("{content}<|im_end|>"); 2], "{content:?}");
    }
}

#[test]
fn a_token_across_the_border_belongs_to_the_turn() {
    // The template's line break and the blanks after it are one token.
    for content in [" ", "   x", "\n", "\n\nx"] {
        assert_eq!(both_turns(content), vec![format!("\n{content}<|im_end|>"); 2], "{content:?}");
    }
}

/// What is labelled when the assistant says the same twice.
fn both_turns(content: &str) -> Vec<String> {
    labelled(&encode(&json!({ "messages": [
        turn("system", "Be brief."),
        turn("user", "1"), turn("assistant", content),
        turn("user", "2"), turn("assistant", content),
    ]})))
}

#[test]
fn without_the_mask_all_but_the_first_token_are_labelled() {
    let template = smollm2::template();
    let messages = json!({ "messages": [turn("user", "Hi"), turn("assistant", "Ho")] });
    let masked = encode(&messages);
    let open = Encoder { mask_prompt: false, ..encoder(Some(&template)) };
    let open = open.encode(&record(&messages)).unwrap();
    assert_eq!((&open.ids, open.prompt_len), (&masked.ids, masked.prompt_len));
    assert_eq!(open.labels[0], NO_LOSS);
    assert!(open.labels[1..].iter().zip(&open.ids[1..]).all(|(&l, &id)| l as u32 == id));
}

#[test]
fn prompt_and_completion_are_a_conversation_where_there_is_a_template() {
    let chat = encode(&json!({ "messages": [turn("user", "Hi"), turn("assistant", "Ho")] }));
    assert_eq!(encode(&json!({ "prompt": "Hi", "completion": "Ho" })), chat);
    assert_eq!(encode(&json!({ "instruction": "Hi", "output": "Ho" })), chat);
    let shared = json!({ "conversations": [
        { "from": "human", "value": "Hi" }, { "from": "gpt", "value": "Ho" },
    ]});
    assert_eq!(encode(&shared), chat);
    let messages = json!({
        "prompt": [turn("user", "Hi")], "completion": [turn("assistant", "Ho")],
    });
    assert_eq!(encode(&messages), chat);
    let alpaca = encode(&json!({ "instruction": "Add", "input": "1 2", "output": "3" }));
    let same = encode(&json!({ "prompt": "Add\n\n1 2", "completion": "3" }));
    assert_eq!(alpaca, same);
}

#[test]
fn turns_of_the_prompt_are_context_only() {
    let example = encode(&json!({
        "prompt": [turn("user", "1"), turn("assistant", "one"), turn("user", "2")],
        "completion": [turn("assistant", "two")],
    }));
    assert_eq!(labelled(&example), ["two<|im_end|>"]);
}

#[test]
fn tool_results_between_two_turns_are_not_learned() {
    let example = encode(&json!({ "messages": [
        turn("user", "Weather?"), turn("assistant", "call"), turn("tool", "rain"),
        turn("assistant", "Rain."), turn("assistant", "Really."),
    ]}));
    assert_eq!(labelled(&example), ["call<|im_end|>", "Rain.<|im_end|>", "Really.<|im_end|>"]);
}

#[test]
fn text_completion_masks_the_prompt_and_learns_to_stop() {
    let pair = json!({ "prompt": "Q: 1 + 1?\nA:", "completion": " 2" });
    let example = encoder(None).encode(&record(&pair)).unwrap();
    assert_eq!(labelled(&example), [" 2<|im_end|>"]);
    let prompt = smollm2::tokenizer().encode_ids("Q: 1 + 1?\nA:").unwrap();
    assert_eq!(example.ids[..prompt.len()], prompt);
    assert_eq!(example.prompt_len, prompt.len());

    let open_end = Encoder { append_eos: false, ..encoder(None) };
    assert_eq!(labelled(&open_end.encode(&record(&pair)).unwrap()), [" 2"]);
    let all = Encoder { mask_prompt: false, ..encoder(None) };
    let all = all.encode(&record(&pair)).unwrap();
    assert_eq!(
        (all.prompt_len, labelled(&all)),
        (prompt.len(), vec![": 1 + 1?\nA: 2<|im_end|>".into()])
    );

    let alpaca = json!({ "instruction": "Add", "input": "1 2", "output": "3" });
    let example = encoder(None).encode(&record(&alpaca)).unwrap();
    assert_eq!(labelled(&example), ["3<|im_end|>"]);
    assert_eq!(
        smollm2::tokenizer().decode(&example.ids[..example.prompt_len]).unwrap(),
        "### Instruction:\nAdd\n\n### Input:\n1 2\n\n### Response:\n"
    );
}

#[test]
fn a_token_across_the_border_belongs_to_the_completion_too() {
    // The space and the word are one token.
    let pair = json!({ "prompt": "The capital is ", "completion": "Paris" });
    assert_eq!(labelled(&encoder(None).encode(&record(&pair)).unwrap()), [" Paris<|im_end|>"]);
}

#[test]
fn text_is_all_learned_but_its_first_token() {
    let text = json!({ "text": "The capital of France" });
    let example = encoder(Some(&smollm2::template())).encode(&record(&text)).unwrap();
    assert_eq!(labelled(&example), [" capital of France<|im_end|>"]);
    assert_eq!(example.prompt_len, 0);
    let ended = json!({ "text": "The capital<|im_end|>" });
    let example = encoder(None).encode(&record(&ended)).unwrap();
    assert_eq!(labelled(&example), [" capital<|im_end|>"]);
}

#[test]
fn given_labels_are_kept_and_need_no_tokenizer() {
    let bare = Encoder { tokenizer: None, template: None, vocab_size: Some(10), ..encoder(None) };
    let given = record(&json!({ "input_ids": [3, 4, 5, 6], "labels": [3, -100, 5, 9] }));
    let example = bare.encode(&given).unwrap();
    assert_eq!(example.labels, [NO_LOSS, NO_LOSS, 5, 9]);
    let example = bare.encode(&record(&json!({ "input_ids": [3, 4] }))).unwrap();
    assert_eq!((example.labels, example.prompt_len), (vec![NO_LOSS, 4], 0));
    let outside = bare.encode(&record(&json!({ "input_ids": [3, 10] }))).unwrap_err();
    let expected =
        RecordError::OutsideVocabulary { field: "input_ids", index: 1, id: 10, vocab_size: 10 };
    assert_eq!(outside, expected);
    let outside = record(&json!({ "input_ids": [3, 4], "labels": [3, 11] }));
    let expected =
        RecordError::OutsideVocabulary { field: "labels", index: 1, id: 11, vocab_size: 10 };
    assert_eq!(bare.encode(&outside).unwrap_err(), expected);
}

#[test]
fn what_is_missing_is_said() {
    let bare = Encoder { tokenizer: None, ..encoder(None) };
    let text = record(&json!({ "text": "x y" }));
    assert_eq!(bare.encode(&text).unwrap_err(), RecordError::NeedsTokenizer { field: "text" });
    let chat = record(&json!({ "messages": [turn("user", "x")] }));
    let error = encoder(None).encode(&chat).unwrap_err();
    assert_eq!(error, RecordError::NeedsTemplate { field: "messages" });
    let error = encoder(Some(&smollm2::template())).encode(&chat).unwrap_err();
    assert!(matches!(error, RecordError::NoLabelledToken { field: "messages", .. }));
    for nothing in [
        json!({ "text": "" }),
        json!({ "prompt": "x", "completion": "" }),
        json!({ "input_ids": [] }),
        json!({ "input_ids": [7] }),
        json!({ "input_ids": [7, 8], "labels": [7, -100] }),
    ] {
        let error = encoder(None).encode(&record(&nothing)).unwrap_err();
        assert!(matches!(error, RecordError::NoLabelledToken { .. }), "{nothing}: {error}");
    }
}

/// Templates in the manner of other families, over SmolLM2's tokens.
fn with(source: &str, messages: &Value) -> Result<Vec<String>, RecordError> {
    let template = ChatTemplate::new(source, Some("<|im_start|>"), Some("<|endoftext|>")).unwrap();
    let example = encoder(Some(&template)).encode(&record(messages))?;
    Ok(labelled(&example))
}

fn three_turns() -> Value {
    json!({ "messages": [
        turn("user", "1"), turn("assistant", " one "), turn("user", "2"), turn("assistant", "two"),
    ]})
}

#[test]
fn templates_of_other_families() {
    // No generation prompt, an end after the assistant's turns only, content trimmed.
    let mistral = "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}\
        [INST] {{ m.content }} [/INST]{% else %} {{ m.content.strip() }}{{ eos_token }}{% endif %}\
        {% endfor %}";
    let ends = [" one<|endoftext|>", " two<|endoftext|>"];
    assert_eq!(with(mistral, &three_turns()).unwrap(), ends);
    // Turns that end with plain text.
    let plain = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}\
        {% if add_generation_prompt %}assistant:{% endif %}";
    assert_eq!(with(plain, &three_turns()).unwrap(), ["  one \n", " two\n"]);
}

/// In the manner of Qwen 3: only the last turn shows its thinking.
const LAST_TURN_DIFFERS: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n\
    {% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}\
    {{ m.content }}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

#[test]
fn a_last_turn_written_differently_is_still_found() {
    let found = with(LAST_TURN_DIFFERS, &three_turns()).unwrap();
    assert_eq!(found, [" one <|im_end|>", "<think></think>two<|im_end|>"]);
}

#[test]
fn a_template_that_cannot_be_followed_needs_generation_blocks() {
    // The number of messages comes first, so no beginning looks like the whole.
    let unmarked = "{{ messages | length }}{% for m in messages %}<|im_start|>{{ m.role }}\n\
        {{ m.content }}<|im_end|>\n{% endfor %}";
    let error = with(unmarked, &three_turns()).unwrap_err();
    assert_eq!(error, RecordError::UnstableTemplate { message: 1 });
    let marked = "{{ messages | length }}{% for m in messages %}<|im_start|>{{ m.role }}\n\
        {%- if m.role == 'assistant' %}\n    {% generation %}\n{{ '\n' + m.content }}\
        {% endgeneration %}\n{% else %}{{ '\n' + m.content }}{% endif %}<|im_end|>\n{% endfor %}";
    let found = with(marked, &three_turns()).unwrap();
    assert_eq!(found, ["\n one <|im_end|>", "\ntwo<|im_end|>"]);
    // Marks in the text itself hide the blocks; that must not mislabel anything.
    let hostile = json!({ "messages": [turn("user", "1"), turn("assistant", "\u{fdd0}")] });
    let error = with(marked, &hostile).unwrap_err();
    assert_eq!(error, RecordError::UnstableTemplate { message: 1 });
}

#[test]
fn a_refusal_is_the_templates_own_words() {
    let source =
        "{% if messages[0].role != 'user' %}{{ raise_exception('user first') }}{% endif %}";
    let error = with(source, &json!({ "messages": [turn("assistant", "x")] })).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`messages`: the chat template refuses the conversation: user first"
    );
}

fn conversation() -> impl Strategy<Value = Vec<(bool, String)>> {
    let content = "([a-z]{1,8}|[ \n]|<\\|im_start\\|>|é|1|\\.){0,12}";
    prop::collection::vec((any::<bool>(), content), 1..7)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn exactly_the_assistants_words_and_ends_carry_loss(turns in conversation()) {
        // A user first: the template puts its system turn before whoever begins.
        let mut messages = vec![Message::new("user", "go")];
        let role = |assistant| if assistant { "assistant" } else { "user" };
        messages.extend(turns.iter().map(|(who, text)| Message::new(role(*who), text)));
        let record = Record::Chat { messages, context: 0, tools: None };
        let template = smollm2::template();
        let result = encoder(Some(&template)).encode(&record);
        let expected: Vec<String> = turns
            .iter()
            .filter(|(assistant, _)| *assistant)
            .map(|(_, text)| format!("{text}<|im_end|>"))
            .collect();
        if expected.is_empty() {
            let nothing = matches!(result, Err(RecordError::NoLabelledToken { .. }));
            prop_assert!(nothing);
            return Ok(());
        }
        let example = result.unwrap();
        let first = example.labels.iter().position(|&label| label != NO_LOSS).unwrap();
        prop_assert_eq!(example.prompt_len, first);
        let ends = example.labels.iter().filter(|&&label| label == END).count();
        prop_assert_eq!(ends, expected.len());
        let runs = labelled(&example);
        prop_assert_eq!(runs.len(), expected.len());
        for (run, expected) in runs.iter().zip(&expected) {
            let before = run.strip_suffix(expected.as_str());
            prop_assert!(matches!(before, Some("" | "\n")), "{run:?} for {expected:?}");
        }
        let starts = turns.iter().filter(|(assistant, _)| *assistant);
        let said: usize = starts.map(|(_, text)| text.matches("<|im_start|>").count()).sum();
        prop_assert_eq!(example.labels.iter().filter(|&&label| label == START).count(), said);
    }
}
