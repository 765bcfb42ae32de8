//! An adapter: method, rank, scale, where it sits, how large it is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use lowtide::TrainError;
use lowtide::formats::Tensor;
use lowtide::formats::gguf_adapter::GgufAdapter;
use lowtide::formats::mlx::{self, MlxAdapter};
use lowtide::formats::peft::{AdapterFiles, LORA_DOWN, LORA_UP};
use lowtide::runtime::LoadedAdapter;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::command::show::number::{bytes, count, counted};
use crate::command::show::{Facts, amounts};

/// Most names of a list that are told; lists of whole names are as long as the model is deep.
const NAMED: usize = 12;

/// An adapter, as `--json` tells it.
#[derive(Debug, Serialize)]
pub(super) struct AdapterReport {
    kind: &'static str,
    /// `peft`, `gguf` or `mlx`.
    format: &'static str,
    path: PathBuf,
    /// As `--method` names it.
    method: String,
    /// What a GGUF adapter says of its base.
    #[serde(skip_serializing_if = "Option::is_none")]
    architecture: Option<&'static str>,
    base: Option<String>,
    file_bytes: u64,
    parameters: u64,
    tensors: usize,
    #[serde(flatten)]
    settings: Settings,
    types: BTreeMap<&'static str, usize>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tensor_list: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Settings {
    /// Absent, as alpha is, where the method has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    rank: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alpha: Option<f64>,
    /// Absent where the file cannot say.
    #[serde(skip_serializing_if = "Option::is_none")]
    dropout: Option<f64>,
    use_rslora: bool,
    /// What only this method has.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    options: BTreeMap<String, String>,
    ranks_of_their_own: usize,
    alphas_of_their_own: usize,
    /// As PEFT names them; empty where the file has no such list.
    target_modules: Vec<String>,
    modules: usize,
    /// Modules by the last part of their name.
    by_name: BTreeMap<String, usize>,
}

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    r#type: &'static str,
    shape: Vec<usize>,
    bytes: usize,
}

/// Opens the folder or the GGUF file at `path` and looks at it.
pub(super) fn inspect(path: &Path, tensors: bool) -> Result<AdapterReport, TrainError> {
    match path {
        path if path.is_file() => of_file(path, tensors),
        path if mlx::is_adapter(path) => of_mlx(path, tensors),
        path => of_folder(path, tensors),
    }
}

/// An adapter of mlx-lm, told by the names and shapes that PEFT gives it.
fn of_mlx(path: &Path, tensors: bool) -> Result<AdapterReport, TrainError> {
    let files = MlxAdapter::open(path)?;
    let said = files.config();
    let modules: BTreeSet<&str> = files.pairs().map(|pair| pair.module).collect();
    let by_name = by_name(&modules);
    let settings = Settings {
        rank: Some(said.rank),
        alpha: Some(said.alpha()),
        dropout: Some(said.dropout),
        use_rslora: false,
        options: BTreeMap::new(),
        ranks_of_their_own: 0,
        alphas_of_their_own: 0,
        target_modules: by_name.keys().cloned().collect(),
        modules: modules.len(),
        by_name,
    };
    let rows = files.pairs().flat_map(|pair| {
        let name = |parameter| format!("{}.{parameter}", pair.module);
        [row(&name(LORA_DOWN), pair.a), row(&name(LORA_UP), pair.b)]
    });
    let report = AdapterReport {
        kind: "adapter",
        format: "mlx",
        path: path.to_owned(),
        base: said.model.clone(),
        method: "lora".to_owned(),
        architecture: None,
        file_bytes: files.file_bytes(),
        parameters: 0,
        tensors: 0,
        settings,
        types: BTreeMap::new(),
        tensor_list: rows.collect(),
    };
    Ok(report.counted(tensors))
}

fn of_file(path: &Path, tensors: bool) -> Result<AdapterReport, TrainError> {
    let file = GgufAdapter::open(path)?;
    let facts = file.facts();
    let rank = facts.modules.iter().map(|module| module.rank).max().unwrap_or(0);
    let modules: BTreeSet<&str> = facts.modules.iter().map(|m| m.module.as_str()).collect();
    let settings = Settings {
        rank: Some(rank),
        alpha: Some(facts.alpha_at(rank)),
        dropout: None,
        use_rslora: false,
        options: BTreeMap::new(),
        ranks_of_their_own: facts.modules.iter().filter(|module| module.rank != rank).count(),
        alphas_of_their_own: 0,
        target_modules: Vec::new(),
        modules: modules.len(),
        by_name: by_name(&modules),
    };
    let rows = file.tensor_names().filter_map(|name| Some(row(name, file.named(name)?)));
    let report = AdapterReport {
        kind: "adapter",
        format: "gguf",
        path: path.to_owned(),
        base: file.base_name().map(str::to_owned),
        method: "lora".to_owned(),
        architecture: Some(facts.architecture),
        file_bytes: file.file_bytes(),
        parameters: 0,
        tensors: 0,
        settings,
        types: BTreeMap::new(),
        tensor_list: rows.collect(),
    };
    Ok(report.counted(tensors))
}

fn of_folder(path: &Path, tensors: bool) -> Result<AdapterReport, TrainError> {
    let files = AdapterFiles::open(path)?;
    let (method, settings) = settings_of(&files, &LoadedAdapter::open(path)?);
    let rows = files.tensor_names().filter_map(|name| Some(row(name, files.named(name)?)));
    let base = files.config().get("base_model_name_or_path").and_then(Value::as_str);
    let file_bytes = files.weights_path().metadata().map_or(0, |data| data.len());
    let report = AdapterReport {
        kind: "adapter",
        format: "peft",
        path: path.to_owned(),
        base: base.map(str::to_owned),
        method,
        architecture: None,
        file_bytes,
        parameters: 0,
        tensors: 0,
        settings,
        types: BTreeMap::new(),
        tensor_list: rows.collect(),
    };
    Ok(report.counted(tensors))
}

impl AdapterReport {
    /// Sums up the list of tensors, and keeps it if it was asked for.
    fn counted(mut self, keep: bool) -> Self {
        for row in &self.tensor_list {
            *self.types.entry(row.r#type).or_default() += 1;
            self.parameters += row.len();
        }
        self.tensors = self.tensor_list.len();
        if !keep {
            self.tensor_list.clear();
        }
        self
    }
}

fn by_name(modules: &BTreeSet<&str>) -> BTreeMap<String, usize> {
    let mut by_name = BTreeMap::new();
    for module in modules {
        let last = module.rsplit('.').next().unwrap_or(module);
        *by_name.entry(last.to_owned()).or_default() += 1;
    }
    by_name
}

/// The method of a folder, and how it was told to build its adapters.
fn settings_of(files: &AdapterFiles, adapter: &LoadedAdapter) -> (String, Settings) {
    let LoadedAdapter { kind, config, modules, .. } = adapter;
    let modules: BTreeSet<&str> = modules.iter().map(String::as_str).collect();
    let names = |value: &Value| match value {
        Value::Array(names) => names.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        Value::String(pattern) => vec![pattern.clone()],
        _ => Vec::new(),
    };
    let told = files.config();
    let patterns = |key: &str| told.get(key).and_then(Value::as_object).map_or(0, Map::len);
    let has = |keys: &[&str]| keys.iter().any(|key| told.contains_key(*key));
    let (has_rank, has_alpha) = (has(&["r"]), has(&["lora_alpha", "alpha"]));
    let has_dropout = has(&["lora_dropout", "vera_dropout", "dropout"]);
    let settings = Settings {
        rank: Some(config.rank).filter(|_| has_rank),
        alpha: Some(config.alpha).filter(|_| has_alpha),
        dropout: Some(config.dropout).filter(|_| has_dropout),
        use_rslora: config.use_rslora,
        options: config.options.clone(),
        ranks_of_their_own: patterns("rank_pattern"),
        alphas_of_their_own: patterns("alpha_pattern"),
        target_modules: told.get("target_modules").map(names).unwrap_or_default(),
        modules: modules.len(),
        by_name: by_name(&modules),
    };
    let stable = kind == "lora" && config.use_rslora;
    (if stable { "rslora".to_owned() } else { kind.clone() }, settings)
}

fn row(name: &str, tensor: Tensor<'_>) -> Row {
    let (shape, r#type) = (tensor.shape.to_vec(), tensor.format.name());
    Row { name: name.to_owned(), r#type, shape, bytes: tensor.stored_bytes() }
}

impl Row {
    fn len(&self) -> u64 {
        self.shape.iter().map(|&axis| axis as u64).product()
    }
}

/// The report for people.
pub(super) fn text(report: &AdapterReport) -> String {
    let mut facts = Facts::default();
    if let Some(architecture) = report.architecture {
        facts.add("file", format!("GGUF, for bases of architecture {architecture}"));
    } else if report.format == "mlx" {
        facts.add("file", "folder of mlx-lm");
    }
    facts.add("method", report.method.escape_debug().to_string());
    let settings = &report.settings;
    if let Some(rank) = settings.rank {
        facts.add("rank", count(rank as u64));
    }
    if let Some(alpha) = settings.alpha {
        let rule = if settings.use_rslora { "alpha / sqrt(rank)" } else { "alpha / rank" };
        facts.add("alpha", format!("{alpha}, scaled by {rule}"));
    }
    if let Some(dropout) = settings.dropout {
        facts.add("dropout", dropout.to_string());
    }
    for (name, value) in &settings.options {
        let name = name.escape_debug().to_string();
        facts.add(&name, value.escape_debug().to_string());
    }
    if settings.ranks_of_their_own > 0 {
        let others = settings.ranks_of_their_own as u64;
        let others = match report.architecture {
            Some(_) => format!("smaller at {}", counted(others, "linear")),
            None => format!("{} in rank_pattern", counted(others, "pattern")),
        };
        facts.add("other ranks", others);
    }
    if settings.alphas_of_their_own > 0 {
        let others = counted(settings.alphas_of_their_own as u64, "pattern");
        facts.add("other alphas", format!("{others} in alpha_pattern"));
    }
    if report.architecture.is_none() {
        facts.add("targets", listed(&settings.target_modules));
    }
    let by_name = settings.by_name.iter().map(|(name, n)| format!("{name} {n}"));
    let modules = counted(settings.modules as u64, "linear");
    facts.add("adapts", format!("{modules}: {}", listed(&by_name.collect::<Vec<_>>())));
    facts.add("base", report.base.as_deref().unwrap_or("not named").escape_debug().to_string());
    let types: Vec<_> = report.types.keys().copied().collect();
    let tensors = counted(report.tensors as u64, "tensor");
    facts.add("tensors", format!("{tensors} of {}", types.join(", ")));
    let numbers = counted(report.parameters, "number");
    facts.add("size", format!("{numbers}, {}", bytes(report.file_bytes)));
    let mut text = facts.under(&format!("Adapter {}", report.path.display()));
    if !report.tensor_list.is_empty() {
        let remark = |row: &Row| format!("{:<6} {:?}", row.r#type, row.shape);
        let rows = report.tensor_list.iter();
        let rows: Vec<_> =
            rows.map(|row| (row.name.as_str(), bytes(row.bytes as u64), remark(row))).collect();
        text.push('\n');
        text.push_str(&amounts("Tensors", &rows));
    }
    text
}

/// A list of names from a file, not too long, nothing in it that steers a terminal.
fn listed(names: &[String]) -> String {
    let mut list: Vec<_> =
        names.iter().take(NAMED).map(|name| name.escape_debug().to_string()).collect();
    if names.len() > NAMED {
        list.push(format!("and {} more", names.len() - NAMED));
    }
    match list.is_empty() {
        true => "not named".into(),
        false => list.join(", "),
    }
}
