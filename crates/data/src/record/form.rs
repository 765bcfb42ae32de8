//! The fields of each form, checked and taken out of their object.

use serde_json::{Map, Value};

use super::{Message, Record, RecordError, json_kind};
use crate::sample::NO_LOSS;

type Fields = Map<String, Value>;

/// What `tools` may be.
const TOOLS: &str = "a list of tools, or the text of one as JSON";

/// `input_ids` with optional `labels`.
pub(super) fn ids(fields: &Fields) -> Result<Record, RecordError> {
    let id = "a token id (a whole number from 0 to 2147483647)";
    let ids = numbers(fields, "input_ids", id, |n| u32::try_from(n).ok().filter(is_label))?;
    let ids = ids.unwrap_or_default();
    let label = "a token id, or -100 for no loss";
    let labels = numbers(fields, "labels", label, |n| {
        i32::try_from(n).ok().filter(|&n| n >= 0 || n == NO_LOSS)
    })?;
    match &labels {
        Some(labels) if labels.len() != ids.len() => {
            Err(RecordError::LabelCount { ids: ids.len(), labels: labels.len() })
        }
        _ => Ok(Record::Ids { ids, labels }),
    }
}

/// `messages` with optional `tools`.
pub(super) fn chat(fields: &mut Fields) -> Result<Record, RecordError> {
    let messages = messages(fields, "messages")?;
    Ok(Record::Chat { messages, context: 0, tools: tools(fields)? })
}

/// `conversations` as ShareGPT writes them: `from` and `value` in place of `role` and `content`,
/// other names for the roles, and the system's words beside the list.
pub(super) fn sharegpt(fields: &mut Fields) -> Result<Record, RecordError> {
    let mut list = list(fields, "conversations")?;
    for (index, entry) in list.iter_mut().enumerate() {
        if let Value::Object(fields) = entry {
            rename(fields, index)?;
        }
    }
    let mut messages = Message::list("conversations", list)?;
    if fields.contains_key("system") {
        let system = string(fields, "system")?;
        let leads = messages.first().is_some_and(|first| first.role() == "system");
        if !system.is_empty() && !leads {
            messages.insert(0, Message::new("system", &system));
        }
    }
    Ok(Record::Chat { messages, context: 0, tools: tools(fields)? })
}

/// `prompt` with `completion`, both text or both messages.
pub(super) fn completion(fields: &mut Fields) -> Result<Record, RecordError> {
    let (present, missing) = ("prompt", "completion");
    match fields.get(missing) {
        None => Err(RecordError::Missing { present, missing }),
        Some(Value::Array(_)) => {
            let mut list = messages(fields, present)?;
            let context = list.len();
            list.extend(messages(fields, missing)?);
            Ok(Record::Chat { messages: list, context, tools: tools(fields)? })
        }
        Some(_) => Ok(Record::Completion {
            prompt: string(fields, present)?,
            completion: string(fields, missing)?,
        }),
    }
}

/// `instruction` with `output` and optional `input`, as Alpaca writes them.
pub(super) fn instruction(fields: &mut Fields) -> Result<Record, RecordError> {
    let (present, missing) = ("instruction", "output");
    if !fields.contains_key(missing) {
        return Err(RecordError::Missing { present, missing });
    }
    let instruction = string(fields, present)?;
    let output = string(fields, missing)?;
    let has_input = fields.contains_key("input");
    let input = if has_input { string(fields, "input")? } else { String::new() };
    Ok(Record::Instruction { instruction, input, output })
}

/// Takes a field that must be text.
pub(super) fn string(fields: &mut Fields, field: &'static str) -> Result<String, RecordError> {
    match fields.remove(field) {
        Some(Value::String(text)) => Ok(text),
        other => Err(wrong(field, "text", &other.unwrap_or_default())),
    }
}

/// The error of a field of the wrong kind.
pub(super) fn wrong(
    field: impl Into<String>,
    expected: &'static str,
    found: &Value,
) -> RecordError {
    RecordError::Field { field: field.into(), expected, found: json_kind(found).to_owned() }
}

fn messages(fields: &mut Fields, field: &'static str) -> Result<Vec<Message>, RecordError> {
    Message::list(field, list(fields, field)?)
}

fn tools(fields: &mut Fields) -> Result<Option<Value>, RecordError> {
    match fields.remove("tools") {
        None => Ok(None),
        Some(tools @ Value::Array(_)) => Ok(Some(tools)),
        // Tables cannot hold lists of one's own shape, and keep them as text.
        Some(Value::String(text)) => match serde_json::from_str(&text) {
            Ok(tools @ Value::Array(_)) => Ok(Some(tools)),
            Ok(Value::Null) => Ok(None),
            _ if text.trim().is_empty() => Ok(None),
            _ => Err(wrong("tools", TOOLS, &Value::String(text))),
        },
        Some(other) => Err(wrong("tools", TOOLS, &other)),
    }
}

fn list(fields: &mut Fields, field: &'static str) -> Result<Vec<Value>, RecordError> {
    let expected = "a list of messages, at least one";
    match fields.remove(field) {
        Some(Value::Array(list)) if list.is_empty() => {
            Err(RecordError::Field { field: field.into(), expected, found: "an empty list".into() })
        }
        Some(Value::Array(list)) => Ok(list),
        other => Err(wrong(field, expected, &other.unwrap_or_default())),
    }
}

/// ShareGPT's names to the common ones, in one message.
fn rename(fields: &mut Fields, index: usize) -> Result<(), RecordError> {
    let field = |name: &str| format!("conversations[{index}].{name}");
    if fields.get("from").and_then(Value::as_str) == Some("function_call") {
        return call(fields, field("value"));
    }
    if let Some(from) = fields.remove("from") {
        let role = match from.as_str() {
            Some("human" | "user") => "user",
            Some("gpt" | "assistant" | "chatgpt" | "bard" | "bing" | "model") => "assistant",
            Some("system") => "system",
            Some("tool" | "observation" | "function_response") => "tool",
            _ => {
                let expected = "human, gpt, system, function_call or observation";
                let found = from.as_str().map(|role| format!("{role:?}"));
                let found = found.unwrap_or_else(|| json_kind(&from).to_owned());
                return Err(RecordError::Field { field: field("from"), expected, found });
            }
        };
        fields.insert("role".into(), role.into());
    }
    match fields.remove("value") {
        None => Ok(()),
        Some(text @ Value::String(_)) => {
            fields.insert("content".into(), text);
            Ok(())
        }
        Some(other) => Err(wrong(field("value"), "text", &other)),
    }
}

/// A call to tools as ShareGPT writes it, a JSON object with `name` and `arguments` or a list of
/// such, as a message of the assistant with `tool_calls`.
fn call(fields: &mut Fields, field: String) -> Result<(), RecordError> {
    let expected = "a JSON object with `name` and `arguments`, or a list of such, as text";
    let value = fields.remove("value").unwrap_or_default();
    let parsed = value.as_str().and_then(|text| serde_json::from_str(text).ok());
    let calls = match parsed {
        Some(Value::Array(calls)) => calls,
        Some(call @ Value::Object(_)) => vec![call],
        _ => return Err(wrong(field, expected, &value)),
    };
    if calls.is_empty() || calls.iter().any(|call| !call["name"].is_string()) {
        return Err(wrong(field, expected, &value));
    }
    let calls = calls.into_iter();
    let calls = calls.map(|call| serde_json::json!({ "type": "function", "function": call }));
    fields.remove("from");
    fields.insert("role".into(), "assistant".into());
    fields.insert("content".into(), "".into());
    fields.insert("tool_calls".into(), calls.collect());
    Ok(())
}

/// Whether an id can also be a label, which is signed.
fn is_label(id: &u32) -> bool {
    i32::try_from(*id).is_ok()
}

/// A list of whole numbers, each converted; nothing where the field is absent.
fn numbers<T>(
    fields: &Fields,
    field: &'static str,
    expected: &'static str,
    convert: impl Fn(i64) -> Option<T>,
) -> Result<Option<Vec<T>>, RecordError> {
    let list = match fields.get(field) {
        None => return Ok(None),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(wrong(field, "a list of whole numbers", other)),
    };
    let entry = |(index, value): (usize, &Value)| {
        value.as_i64().and_then(&convert).ok_or_else(|| RecordError::Field {
            field: format!("{field}[{index}]"),
            expected,
            found: match value {
                Value::Number(number) => number.to_string(),
                other => json_kind(other).to_owned(),
            },
        })
    };
    list.iter().enumerate().map(entry).collect::<Result<_, _>>().map(Some)
}
