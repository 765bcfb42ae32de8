//! Conversations with tools: rendered as transformers renders them, and learned only where the
//! assistant speaks.

use lowtide_data::encode::{Encoder, Example};
use lowtide_data::{ChatTemplate, Message, NO_LOSS, Record, RecordError, RenderOptions};
use lowtide_testkit::golden::{golden_dir, load_json};
use serde_json::{Value, json};

use crate::smollm2;

fn golden() -> Value {
    load_json(&golden_dir().join("tokenizers/tools.json"))
}

fn conversation(golden: &Value, count: usize) -> Vec<Message> {
    let messages = golden["conversation"].as_array().unwrap().iter().take(count);
    messages.map(|message| Message::from_json("messages", message.clone()).unwrap()).collect()
}

#[test]
fn tools_calls_and_results_render_as_the_reference() {
    let golden = golden();
    let template = ChatTemplate::new(golden["template"].as_str().unwrap(), None, None).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 5);
    for case in cases {
        let messages = conversation(&golden, case["messages"].as_u64().unwrap() as usize);
        let options = RenderOptions {
            add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap(),
            tools: Some(&case["tools"]).filter(|tools| !tools.is_null()),
        };
        assert_eq!(template.render(&messages, options).unwrap(), case["text"].as_str().unwrap());
    }
    let indented = &golden["indented"];
    let template = ChatTemplate::new(indented["template"].as_str().unwrap(), None, None).unwrap();
    let options = RenderOptions { add_generation_prompt: false, tools: Some(&golden["tools"]) };
    let text = template.render(&conversation(&golden, 10), options).unwrap();
    assert_eq!(text, indented["text"].as_str().unwrap());
}

fn encode(template: &str, record: &Value) -> Result<Example, RecordError> {
    let template = ChatTemplate::new(template, None, None).unwrap();
    let encoder = Encoder {
        tokenizer: Some(smollm2::tokenizer()),
        template: Some(&template),
        mask_prompt: true,
        append_eos: true,
        vocab_size: None,
    };
    Record::from_json_line(record.to_string().as_bytes()).and_then(|record| encoder.encode(&record))
}

/// The text of each run of labelled tokens.
fn labelled(example: &Example) -> Vec<String> {
    let tokens: Vec<_> = example.ids.iter().zip(&example.labels).collect();
    let runs = tokens.split(|&(_, &label)| label == NO_LOSS).filter(|run| !run.is_empty());
    runs.map(|run| {
        let ids: Vec<u32> = run.iter().map(|&(&id, _)| id).collect();
        smollm2::tokenizer().decode(&ids).unwrap()
    })
    .collect()
}

const SET: &str = r#"{"name": "set_light", "arguments": {"room": "Küche", "on": "#;

#[test]
fn calls_are_learned_and_results_are_not() {
    let golden = golden();
    let template = golden["template"].as_str().unwrap();
    let record = json!({ "messages": golden["conversation"], "tools": golden["tools"] });
    let expected = [
        format!(
            "<tool_call>\n{SET}true, \"temp\": 2.5}}}}\n</tool_call>\n<tool_call>\n{}\n\
             </tool_call><|im_end|>",
            r#"{"name": "now", "arguments": {"zone": "UTC"}}"#
        ),
        "It is on. It is half past twelve.<|im_end|>".into(),
        format!("I will.\n<tool_call>\n{SET}false}}}}\n</tool_call><|im_end|>"),
        "Done.<|im_end|>".into(),
    ];
    assert_eq!(labelled(&encode(template, &record).unwrap()), expected);

    // Tools as the text of a list give the same; other text is refused.
    let text = json!({ "messages": golden["conversation"], "tools": golden["tools"].to_string() });
    assert_eq!(encode(template, &text).unwrap(), encode(template, &record).unwrap());
    let wrong = json!({ "messages": golden["conversation"], "tools": "set_light" });
    let error = encode(template, &wrong).unwrap_err().to_string();
    assert_eq!(
        error,
        "`tools`: expected a list of tools, or the text of one as JSON, found a string"
    );
}

#[test]
fn calls_in_sharegpts_words_are_those_of_a_message() {
    let golden = golden();
    let template = golden["template"].as_str().unwrap();
    let arguments = json!({ "room": "Küche", "on": true });
    let call = json!({ "name": "set_light", "arguments": arguments });
    let said = |from: &str, value: &str| json!({ "from": from, "value": value });
    let record = json!({ "tools": golden["tools"], "conversations": [
        said("human", "On."),
        said("function_call", &call.to_string()),
        said("observation", "ok"),
        said("gpt", "It is on."),
    ]});
    let same = json!({ "tools": golden["tools"], "messages": [
        { "role": "user", "content": "On." },
        { "role": "assistant", "content": "", "tool_calls": [{ "function": call }] },
        { "role": "tool", "content": "ok" },
        { "role": "assistant", "content": "It is on." },
    ]});
    let example = encode(template, &record).unwrap();
    assert_eq!(example, encode(template, &same).unwrap());
    let expected = [
        format!("<tool_call>\n{SET}true}}}}\n</tool_call><|im_end|>"),
        "It is on.<|im_end|>".into(),
    ];
    assert_eq!(labelled(&example), expected);
    for value in ["on()", "[]", "{}", "[{\"name\": 1}]"] {
        let record =
            json!({ "conversations": [said("human", "On."), said("function_call", value)] });
        let error = encode(template, &record).unwrap_err().to_string();
        assert!(error.starts_with("`conversations[1].value`: expected a JSON object"), "{error}");
    }
}

/// A call that begins with a special token and ends with none is learned to its end.
#[test]
fn a_special_token_that_opens_a_call_does_not_end_the_turn() {
    let template = "{% for m in messages %}{% if m.tool_calls %}<repo_name>\
        {{ m.tool_calls | tojson }}\n{% elif m.role == 'tool' %}{{ m.content }}\n{% else %}\
        {{ m.content }}\n{% endif %}{% endfor %}";
    let record = json!({ "messages": [
        { "role": "user", "content": "On." },
        { "role": "assistant", "content": null, "tool_calls": [{ "name": "on" }] },
        { "role": "tool", "content": "ok" },
        { "role": "assistant", "content": "It is." },
    ]});
    let example = encode(template, &record).unwrap();
    assert_eq!(labelled(&example), ["<repo_name>[{\"name\": \"on\"}]\n", "It is.\n"]);
}
