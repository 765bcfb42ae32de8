//! Tests of the record forms.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn read(value: &Value) -> Result<Record, RecordError> {
    Record::from_json_line(value.to_string().as_bytes())
}

fn field_error(value: &Value) -> (String, &'static str, String) {
    match read(value) {
        Err(RecordError::Field { field, expected, found }) => (field, expected, found),
        other => panic!("{value}: {other:?}"),
    }
}

fn message(role: &str, content: &str) -> Value {
    json!({ "role": role, "content": content })
}

#[test]
fn each_form_is_found_by_its_keys() {
    assert_eq!(read(&json!({ "text": "x", "id": 3 })).unwrap(), Record::Text("x".into()));
    let pair = Record::Completion { prompt: "a".into(), completion: "b".into() };
    assert_eq!(read(&json!({ "prompt": "a", "completion": "b" })).unwrap(), pair);
    let ids = Record::Ids { ids: vec![1, 2], labels: Some(vec![-100, 2]) };
    assert_eq!(read(&json!({ "input_ids": [1, 2], "labels": [-100, 2] })).unwrap(), ids);
    let ids = Record::Ids { ids: vec![1], labels: None };
    assert_eq!(read(&json!({ "input_ids": [1], "labels": null, "text": "x" })).unwrap(), ids);
    let instruction =
        Record::Instruction { instruction: "a".into(), input: String::new(), output: "b".into() };
    assert_eq!(read(&json!({ "instruction": "a", "output": "b" })).unwrap(), instruction);
    let same = json!({ "instruction": "a", "input": "", "output": "b", "text": "all of it" });
    assert_eq!(read(&same).unwrap(), instruction);
    let chat = Record::Chat {
        messages: vec![Message::new("user", "a"), Message::new("assistant", "b")],
        context: 0,
        tools: Some(json!([{}])),
    };
    let list = [message("user", "a"), message("assistant", "b")];
    assert_eq!(read(&json!({ "messages": list, "tools": [{}] })).unwrap(), chat);
    let prompt = json!({ "prompt": [list[0]], "completion": [list[1]], "tools": [{}] });
    let Record::Chat { messages, context, .. } = read(&prompt).unwrap() else { panic!() };
    assert_eq!((messages.len(), context), (2, 1));
}

#[test]
fn sharegpt_speaks_of_from_and_value() {
    let list = json!([
        { "from": "human", "value": "a" }, { "from": "gpt", "value": "b" },
        { "from": "tool", "value": "c" },
    ]);
    let expected = vec![
        Message::new("system", "s"),
        Message::new("user", "a"),
        Message::new("assistant", "b"),
        Message::new("tool", "c"),
    ];
    let read_messages = |value: &Value| match read(value).unwrap() {
        Record::Chat { messages, .. } => messages,
        other => panic!("{other:?}"),
    };
    assert_eq!(read_messages(&json!({ "conversations": list, "system": "s" })), expected);
    assert_eq!(read_messages(&json!({ "conversations": list, "system": "" })), expected[1..]);
    let common = json!({ "conversations": [message("user", "a")] });
    assert_eq!(read_messages(&common), [Message::new("user", "a")]);
    let odd = json!({ "conversations": [{ "from": "narrator", "value": "a" }] });
    assert_eq!(
        field_error(&odd),
        (
            "conversations[0].from".into(),
            "human, gpt, system, function_call or observation",
            "\"narrator\"".into()
        )
    );
}

#[test]
fn other_fields_of_a_message_are_kept() {
    let call = json!({ "role": "assistant", "content": null, "tool_calls": [{ "id": "1" }] });
    let message = Message::from_json("messages[0]", call.clone()).unwrap();
    assert_eq!((message.role(), message.content()), ("assistant", None));
    assert!(message.is_assistant());
    assert_eq!(serde_json::to_value(&message).unwrap(), call);
}

#[test]
fn a_wrong_field_is_named_by_its_path() {
    let messages = |list: Value| field_error(&json!({ "messages": list })).0;
    assert_eq!(messages(json!([{ "role": "user", "content": "x" }, {}])), "messages[1].role");
    assert_eq!(messages(json!([{ "role": 3 }])), "messages[0].role");
    assert_eq!(messages(json!([{ "role": "user", "content": 3 }])), "messages[0].content");
    assert_eq!(messages(json!(["x"])), "messages[0]");
    assert_eq!(messages(json!([])), "messages");
    assert_eq!(messages(json!("x")), "messages");
    let text = field_error(&json!({ "text": ["x"] }));
    assert_eq!(text, ("text".into(), "text", "a list".into()));
    assert_eq!(field_error(&json!({ "prompt": "x", "completion": 3 })).0, "completion");
    assert_eq!(field_error(&json!({ "prompt": [], "completion": "x" })).0, "prompt");
    assert_eq!(field_error(&json!({ "input_ids": "1 2" })).0, "input_ids");
    let silent = json!([{ "role": "user", "content": "x" }, { "role": "assistant" }]);
    assert_eq!(messages(silent), "messages[1].content");
    assert_eq!(messages(json!([{ "role": "user", "content": null }])), "messages[0].content");
    let call = json!({ "role": "assistant", "content": null, "tool_calls": [] });
    assert!(read(&json!({ "messages": [call] })).is_ok(), "calls need no content");
    let tools = json!({ "messages": [{ "role": "user", "content": "x" }], "tools": "f" });
    assert_eq!(field_error(&tools).0, "tools");
    for (id, found) in [(json!(-1), "-1"), (json!(1.5), "1.5"), (json!(1_u64 << 31), "2147483648")]
    {
        let (field, _, given) = field_error(&json!({ "input_ids": [0, id] }));
        assert_eq!((field.as_str(), given.as_str()), ("input_ids[1]", found));
    }
    let (field, expected, _) = field_error(&json!({ "input_ids": [5], "labels": [-1] }));
    assert_eq!((field.as_str(), expected), ("labels[0]", "a token id, or -100 for no loss"));
    let counts = read(&json!({ "input_ids": [5], "labels": [] })).unwrap_err();
    assert_eq!(counts, RecordError::LabelCount { ids: 1, labels: 0 });
}

#[test]
fn half_a_form_names_the_other_half() {
    let missing = |value: Value| match read(&value) {
        Err(RecordError::Missing { present, missing }) => (present, missing),
        other => panic!("{other:?}"),
    };
    assert_eq!(missing(json!({ "prompt": "x" })), ("prompt", "completion"));
    assert_eq!(missing(json!({ "completion": "x", "prompt": null })), ("completion", "prompt"));
    assert_eq!(missing(json!({ "instruction": "x" })), ("instruction", "output"));
}

#[test]
fn unknown_keys_are_listed_with_what_would_do() {
    let words = |value: Value| read(&value).unwrap_err().to_string();
    assert_eq!(
        words(json!({ "question": "x", "answer\n": "y" })),
        format!("found the keys `question`, `answer\\n`: expected {FORMS}")
    );
    assert!(words(json!({})).starts_with("found the keys (none): expected `input_ids`"));
    let many: Map<String, Value> =
        (0..1000).map(|i| (format!("{i}{}", "k".repeat(1000)), Value::Bool(true))).collect();
    let words = words(Value::Object(many));
    assert!(words.len() < 1200 && words.contains("and 988 more"), "{words}");
}

#[test]
fn what_is_no_record_says_where() {
    let error = |bytes: &[u8]| Record::from_json_line(bytes).unwrap_err();
    assert_eq!(error(b"{\"text\": \"\xff\"}"), RecordError::Utf8 { at: 10 });
    let json = error(b"{\"text\": \"x\", }");
    assert_eq!(json, RecordError::Json { column: 15, reason: "trailing comma".into() });
    let list = error(b"[1, 2]");
    assert_eq!(list.to_string(), "expected an object with keys, found a list");
    let deep = [b"{\"text\":".as_slice(), &b"[".repeat(100_000)].concat();
    assert!(matches!(error(&deep), RecordError::Json { .. }));
}

#[test]
fn lines_are_counted_and_limited() {
    let text = b"\xef\xbb\xbf{\"a\":1}\r\n\n  \n01234567890\n012345678901\nlast";
    let mut lines = Lines::new(&text[..], 11);
    let mut seen = Vec::new();
    while let Some(line) = lines.next_line().unwrap() {
        let line = match line {
            Line::Bytes(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            Line::TooLong => "too long".to_owned(),
        };
        let stop = line == "too long";
        seen.push((lines.number(), line));
        if stop {
            break;
        }
    }
    let expected = [(1, "{\"a\":1}\r"), (4, "01234567890"), (5, "too long")];
    assert_eq!(seen, expected.map(|(number, line)| (number, line.to_owned())));
}

/// JSON that is often nearly a record.
fn nearly() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z]{0,4}".prop_map(Value::from),
        Just(json!("user")),
    ];
    let key = prop::sample::select(vec![
        "text",
        "prompt",
        "completion",
        "messages",
        "conversations",
        "role",
        "content",
        "from",
        "value",
        "input_ids",
        "labels",
        "instruction",
        "input",
        "output",
        "tools",
        "system",
        "x",
    ]);
    leaf.prop_recursive(4, 32, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..4).prop_map(|fields| Value::Object(
                fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
            )),
        ]
    })
}

proptest! {
    #[test]
    fn any_bytes_are_a_record_or_an_error(bytes: Vec<u8>) {
        let _ = Record::from_json_line(&bytes);
    }

    #[test]
    fn anything_like_a_record_is_one_or_an_error(value in nearly()) {
        if let Ok(Record::Ids { ids, labels: Some(labels) }) = read(&value) {
            prop_assert_eq!(ids.len(), labels.len());
        }
    }
}
