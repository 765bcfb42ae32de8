//! What an HF folder says about its tokenizer, besides the tokenizer itself.

use std::path::Path;

use serde_json::{Map, Value};

use crate::json::{CONFIG_BYTES_MAX, LIST_BYTES_MAX, Object, read_object, read_text};
use crate::{DocumentError, Error, SpecialTokens};

/// The parts of `tokenizer_config.json` that are used, and `chat_template.jinja`.
#[derive(Clone, Debug, Default)]
pub(crate) struct TokenizerConfig {
    pub(crate) chat_template: Option<String>,
    pub(crate) special: SpecialTokens,
}

impl TokenizerConfig {
    pub(crate) fn read(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("tokenizer_config.json");
        let config = read_object(&path, LIST_BYTES_MAX)?.unwrap_or_default();
        let mut config = parse(&config).map_err(|reason| Error::document(&path, reason))?;
        // Newer files keep the template beside the config, and then that one counts.
        if let Some(text) = read_text(&dir.join("chat_template.jinja"), CONFIG_BYTES_MAX)? {
            config.chat_template = Some(text);
        }
        Ok(config)
    }
}

fn parse(config: &Map<String, Value>) -> Result<TokenizerConfig, DocumentError> {
    let config = Object::root(config);
    let special = SpecialTokens {
        bos: special_token(config, "bos_token")?,
        eos: special_token(config, "eos_token")?,
        unk: special_token(config, "unk_token")?,
        pad: special_token(config, "pad_token")?,
    };
    Ok(TokenizerConfig { chat_template: chat_template(config)?, special })
}

/// A token as text, or as an object with its text in `content`.
fn special_token(config: Object<'_>, key: &str) -> Result<Option<String>, DocumentError> {
    let Some(value) = config.get(key) else { return Ok(None) };
    let text = value.as_str().or_else(|| value.get("content")?.as_str());
    match text {
        Some(text) => Ok(Some(text.to_owned())),
        None => Err(config.wrong_type(key, "text, or an object with `content`", value)),
    }
}

/// One template, or a list of named ones of which `default` counts.
fn chat_template(config: Object<'_>) -> Result<Option<String>, DocumentError> {
    const KEY: &str = "chat_template";
    let Some(value) = config.get(KEY) else { return Ok(None) };
    let expected = "a template, or a list of templates with `name` and `template`";
    let wrong = || config.wrong_type(KEY, expected, value);
    if let Some(text) = value.as_str() {
        return Ok(Some(text.to_owned()));
    }
    let mut named = Vec::new();
    for item in value.as_array().ok_or_else(wrong)? {
        let text = |key| item.get(key).and_then(Value::as_str).ok_or_else(wrong);
        named.push((text("name")?, text("template")?));
    }
    let default = named.iter().find(|(name, _)| *name == "default");
    match (default, named.as_slice()) {
        (Some((_, template)), _) | (None, [(_, template)]) => Ok(Some((*template).to_owned())),
        (None, []) => Ok(None),
        (None, _) => {
            let names: Vec<_> = named.iter().map(|(name, _)| *name).collect();
            let expected = "one template, or one that is named `default`";
            Err(DocumentError::out_of_range(KEY, names.join(", "), expected))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<TokenizerConfig, DocumentError> {
        parse(&crate::json::parse_object(json).unwrap())
    }

    #[test]
    fn tokens_are_text_or_objects() {
        let config = read(
            r#"{"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false},
            "pad_token": null}"#,
        );
        let expected = SpecialTokens {
            bos: Some("<s>".to_owned()),
            eos: Some("</s>".to_owned()),
            unk: None,
            pad: None,
        };
        assert_eq!(config.unwrap().special, expected);
        let error = read(r#"{"bos_token": 1}"#).unwrap_err().to_string();
        let words = "`bos_token` is a number; expected text, or an object with `content`";
        assert_eq!(error, words);
    }

    #[test]
    fn templates_are_one_or_named() {
        let template = |json| read(json).unwrap().chat_template;
        assert_eq!(template(r#"{"chat_template": "a"}"#).as_deref(), Some("a"));
        let two = r#"{"chat_template": [{"name": "tool_use", "template": "t"},
            {"name": "default", "template": "d"}]}"#;
        assert_eq!(template(two).as_deref(), Some("d"));
        let one = r#"{"chat_template": [{"name": "only", "template": "o"}]}"#;
        assert_eq!(template(one).as_deref(), Some("o"));
        assert_eq!(template(r#"{"chat_template": []}"#), None);
        assert_eq!(template("{}"), None);
        assert!(read(r#"{"chat_template": [{"name": "x"}]}"#).is_err());
        let unclear = r#"{"chat_template": [{"name": "a", "template": "1"},
            {"name": "b", "template": "2"}]}"#;
        assert!(matches!(read(unclear).unwrap_err(), DocumentError::OutOfRange { .. }));
    }
}
