//! A base: shape, tensors by type, tokenizer, chat template.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lowtide::TrainError;
use lowtide::data::{ChatTemplate, Message, RenderOptions, Specials};
use lowtide::formats::{Activation, Base, Hyperparameters, RopeScaling, TokenizerSource};
use lowtide::runtime::{BaseText, OpenBase};
use serde::Serialize;

use super::text;
use crate::command::show::number::{bytes, count};
use crate::command::show::{Facts, amounts};

/// A base, as `--json` tells it.
#[derive(Debug, Serialize)]
pub(super) struct ModelReport {
    kind: &'static str,
    path: PathBuf,
    format: &'static str,
    file_bytes: u64,
    architecture: String,
    parameters: u64,
    num_hidden_layers: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    head_dim: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    sliding_window: Option<usize>,
    tie_word_embeddings: bool,
    hidden_act: &'static str,
    rope: String,
    types: Vec<TypeRow>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tensors: Vec<TensorRow>,
    tokenizer: TokenizerReport,
    chat_template: Option<String>,
    conversation: Option<Result<String, String>>,
}

/// Tensors of one type.
#[derive(Debug, Serialize)]
struct TypeRow {
    r#type: &'static str,
    tensors: u64,
    parameters: u64,
    bytes: u64,
}

/// One tensor.
#[derive(Debug, Serialize)]
pub(super) struct TensorRow {
    name: String,
    r#type: &'static str,
    shape: Vec<usize>,
    bytes: u64,
}

#[derive(Debug, Default, Serialize)]
struct TokenizerReport {
    /// The kind, or `none`.
    kind: String,
    tokens: Option<usize>,
    special: BTreeMap<&'static str, SpecialToken>,
    stop: Vec<u32>,
    /// Why it cannot be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct SpecialToken {
    id: u32,
    token: Option<String>,
}

/// Opens the base at `path` and looks at it; no weight is read.
pub(super) fn inspect(path: &Path, tensors: bool) -> Result<ModelReport, TrainError> {
    let base = OpenBase::open(path)?;
    let file = base.file();
    let hyper = file.hyper();
    let list: Vec<_> = file.tensor_names().filter_map(|name| tensor(file, name)).collect();
    let (text, error) = match BaseText::open(&base) {
        Ok(text) => (Some(text), None),
        Err(error) => (None, Some(error.to_string())),
    };
    Ok(ModelReport {
        kind: "model",
        path: path.to_owned(),
        format: if path.is_dir() { "Hugging Face folder" } else { "GGUF file" },
        file_bytes: file.file_bytes(),
        architecture: hyper.architecture.clone(),
        parameters: list.iter().map(TensorRow::len).sum(),
        num_hidden_layers: hyper.num_hidden_layers,
        hidden_size: hyper.hidden_size,
        intermediate_size: hyper.intermediate_size,
        num_attention_heads: hyper.num_attention_heads,
        num_key_value_heads: hyper.num_key_value_heads,
        head_dim: hyper.head_dim,
        vocab_size: hyper.vocab_size,
        max_position_embeddings: hyper.max_position_embeddings,
        sliding_window: hyper.local.as_ref().map(|local| local.window),
        tie_word_embeddings: hyper.tie_word_embeddings,
        hidden_act: match hyper.hidden_act {
            Activation::Silu => "silu",
            Activation::GeluTanh => "gelu_tanh",
        },
        rope: rope(hyper),
        types: types(&list),
        tokenizer: tokenizer(file, text.as_ref(), error)?,
        chat_template: file.chat_template().map(str::to_owned),
        conversation: text.as_ref().and_then(|text| text.template.as_ref()).map(conversation),
        tensors: if tensors { list } else { Vec::new() },
    })
}

fn tensor(file: &Base, name: String) -> Option<TensorRow> {
    let tensor = file.tensor(&name)?;
    let (shape, bytes) = (tensor.shape.to_vec(), tensor.stored_bytes() as u64);
    Some(TensorRow { name, r#type: tensor.format.name(), shape, bytes })
}

impl TensorRow {
    fn len(&self) -> u64 {
        self.shape.iter().map(|&axis| axis as u64).product()
    }
}

/// Tensors by type, the types with most bytes first.
fn types(list: &[TensorRow]) -> Vec<TypeRow> {
    let mut types: BTreeMap<&'static str, TypeRow> = BTreeMap::new();
    for tensor in list {
        let row = types.entry(tensor.r#type).or_insert_with(|| TypeRow {
            r#type: tensor.r#type,
            tensors: 0,
            parameters: 0,
            bytes: 0,
        });
        row.tensors += 1;
        row.parameters += tensor.len();
        row.bytes += tensor.bytes;
    }
    let mut rows: Vec<_> = types.into_values().collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.bytes));
    rows
}

fn rope(hyper: &Hyperparameters) -> String {
    let theta = format!("theta {}", hyper.rope.theta);
    match &hyper.rope.scaling {
        RopeScaling::Default => theta,
        RopeScaling::Linear { factor } => format!("{theta}, linear, factor {factor}"),
        RopeScaling::Llama3 { factor, .. } => format!("{theta}, llama3, factor {factor}"),
        RopeScaling::Factors(factors) => format!("{theta}, {} factors", factors.len()),
    }
}

fn tokenizer(
    file: &Base,
    text: Option<&BaseText>,
    error: Option<String>,
) -> Result<TokenizerReport, TrainError> {
    let kind = match file.tokenizer_source()? {
        TokenizerSource::Json(_) => "tokenizer.json".into(),
        TokenizerSource::Gguf(vocab) => match vocab.pre {
            Some(pre) => format!("{}, split as `{pre}`", vocab.model),
            None => vocab.model,
        },
        TokenizerSource::None => "none".into(),
    };
    let stop = text.map_or(file.eos_token_ids(), BaseText::ends).to_vec();
    let mut report = TokenizerReport { kind, stop, error, ..TokenizerReport::default() };
    if let Some(tokenizer) = text.and_then(|text| text.tokenizer.as_ref()) {
        report.tokens = Some(tokenizer.vocab_size());
        let Specials { bos, eos, eot, unk, pad } = tokenizer.specials();
        let named = [("bos", bos), ("eos", eos), ("eot", eot), ("unk", unk), ("pad", pad)];
        for (name, id) in named {
            if let Some(id) = id {
                report.special.insert(name, SpecialToken { id, token: tokenizer.token(id) });
            }
        }
    }
    Ok(report)
}

/// A short conversation through the template, or the template's words against it.
fn conversation(template: &ChatTemplate) -> Result<String, String> {
    let turns =
        [("user", "Which way does the tide run?"), ("assistant", "Out."), ("user", "And then?")];
    let messages = turns.map(|(role, words)| Message::new(role, words));
    let options = RenderOptions { add_generation_prompt: true, tools: None };
    template.render(&messages, options).map_err(|error| error.to_string())
}

/// The report for people.
pub(super) fn text(report: &ModelReport, whole_template: bool) -> String {
    let mut text = shape(report);
    text.push('\n');
    let rows: Vec<_> = report
        .types
        .iter()
        .map(|row| {
            let remark =
                format!("{} tensors, {} numbers", count(row.tensors), count(row.parameters));
            (row.r#type, bytes(row.bytes), remark)
        })
        .collect();
    text.push_str(&amounts("Tensors by type", &rows));
    if !report.tensors.is_empty() {
        let remark = |row: &TensorRow| format!("{:<6} {:?}", row.r#type, row.shape);
        let rows = report.tensors.iter();
        let rows: Vec<_> =
            rows.map(|row| (row.name.as_str(), bytes(row.bytes), remark(row))).collect();
        text.push('\n');
        text.push_str(&amounts("Tensors", &rows));
    }
    text.push('\n');
    text.push_str(&vocabulary(&report.tokenizer));
    if let Some(template) = &report.chat_template {
        let how = "--template shows all of it";
        text.push('\n');
        text.push_str(&text::block("Chat template", template, whole_template, how));
    }
    match &report.conversation {
        Some(Ok(words)) => {
            text.push('\n');
            text.push_str(&text::block("A conversation through it", words, true, ""));
        }
        Some(Err(error)) => {
            text.push('\n');
            text.push_str(&text::block("A conversation through it fails", error, true, ""));
        }
        None => {}
    }
    text
}

fn shape(report: &ModelReport) -> String {
    let number = |n: usize| count(n as u64);
    let mut context = format!("{} tokens", number(report.max_position_embeddings));
    if let Some(window) = report.sliding_window {
        context.push_str(&format!(", {} in local layers", number(window)));
    }
    let head = if report.tie_word_embeddings { "tied to the embedding" } else { "of its own" };
    Facts::default()
        .add("file", format!("{}, {}", report.format, bytes(report.file_bytes)))
        .add(
            "architecture",
            format!("{}, {} blocks", report.architecture, number(report.num_hidden_layers)),
        )
        .add("parameters", count(report.parameters))
        .add(
            "width",
            format!(
                "{} hidden, {} in feed-forward, {}",
                number(report.hidden_size),
                number(report.intermediate_size),
                report.hidden_act
            ),
        )
        .add(
            "attention",
            format!(
                "{} query heads over {} key-value heads, {} wide",
                report.num_attention_heads, report.num_key_value_heads, report.head_dim
            ),
        )
        .add("positions", &report.rope)
        .add("context", context)
        .add("vocabulary", format!("{} tokens, head {head}", number(report.vocab_size)))
        .under(&format!("Model {}", report.path.display()))
}

fn vocabulary(report: &TokenizerReport) -> String {
    let mut facts = Facts::default();
    facts.add("kind", &report.kind);
    if let Some(error) = &report.error {
        facts.add("unusable", error);
    }
    if let Some(tokens) = report.tokens {
        facts.add("tokens", count(tokens as u64));
    }
    for (name, special) in &report.special {
        let token = special.token.as_deref().unwrap_or_default();
        facts.add(name, format!("{} (`{}`)", special.id, token.escape_debug()));
    }
    if !report.stop.is_empty() {
        let ids: Vec<_> = report.stop.iter().map(u32::to_string).collect();
        facts.add("stops at", ids.join(", "));
    }
    facts.under("Tokenizer")
}
