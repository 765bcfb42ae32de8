//! LoRA as PEFT describes it.

use std::collections::BTreeSet;

use serde_json::{Map, Number, Value};

use super::variant::{LoraVariant, MAGNITUDE, USE_DORA, refuse_unknown};
use super::{AdapterError, BASE, PREFIX, Weights, patterns, tensor_name};
use crate::document::shown;
use crate::json::{Object, parse_object, required, shown_value};
use crate::{DocumentError, Tensor};

/// The parameter `A` `[rank, inputs]`, below its module.
pub const DOWN: &str = "lora_A.weight";
/// The parameter `B` `[outputs, rank]`, below its module.
pub const UP: &str = "lora_B.weight";
/// Largest rank believed.
pub(crate) const RANK_MAX: usize = 1 << 16;

/// The settings of a LoRA adapter: `adapter_config.json` with `peft_type` `LORA`.
///
/// Reading refuses, by name, everything that would change the arithmetic and is not computed.
/// Fields that do not concern it are kept in [`extra`](Self::extra) and written back.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// Where the base came from.
    pub base_model_name_or_path: Option<String>,
    /// Rank.
    pub r: usize,
    /// Numerator of the scale.
    pub lora_alpha: f64,
    /// Chance that an input of `A` is dropped in training.
    pub lora_dropout: f64,
    /// Which modules are adapted.
    pub target_modules: Option<TargetModules>,
    /// Scale by `alpha / sqrt(rank)` instead of `alpha / rank`.
    pub use_rslora: bool,
    /// Whether it is DoRA or QA-LoRA.
    pub variant: LoraVariant,
    /// Ranks that differ from `r`: regular expressions for the ends of module names, first match.
    pub rank_pattern: Vec<(String, usize)>,
    /// Alphas that differ from `lora_alpha`, in the same way.
    pub alpha_pattern: Vec<(String, f64)>,
    /// All other fields, as they were read.
    pub extra: Map<String, Value>,
}

/// Which modules of the base an adapter adapts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetModules {
    /// Names, or ends of names after a dot.
    List(Vec<String>),
    /// A regular expression for whole names, or `all-linear`.
    Pattern(String),
}

impl Default for LoraConfig {
    /// Rank 8, alpha 8, no dropout: PEFT's own defaults.
    fn default() -> Self {
        Self {
            base_model_name_or_path: None,
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            target_modules: None,
            use_rslora: false,
            variant: LoraVariant::Plain,
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            extra: Map::new(),
        }
    }
}

/// Reads the text of an `adapter_config.json` of a LoRA adapter.
///
/// # Errors
/// [`DocumentError`], naming the field.
pub fn parse_lora_config(text: &str) -> Result<LoraConfig, DocumentError> {
    LoraConfig::from_document(&parse_object(text)?)
}

/// Fields of [`LoraConfig`]; all others are kept as they are.
const READ: &[&str] = &[
    "alpha_pattern",
    BASE,
    "lora_alpha",
    "lora_dropout",
    "peft_type",
    "r",
    "rank_pattern",
    "target_modules",
    USE_DORA,
    "use_rslora",
];
/// Fields that change the arithmetic when they are set.
const REFUSED: &[&str] = &[
    "alora_invocation_tokens",
    "ensure_weight_tying",
    "fan_in_fan_out",
    "layer_replication",
    "lora_bias",
    "modules_to_save",
    "target_parameters",
    "trainable_token_indices",
];
/// Ways to initialise that leave the base as it is; others rewrite it when the adapter is loaded.
const INITS: &[&str] = &["gaussian", "eva", "orthogonal"];

impl LoraConfig {
    /// Reads the settings of a LoRA adapter.
    ///
    /// # Errors
    /// [`DocumentError`], naming the field.
    pub fn from_document(document: &Map<String, Value>) -> Result<Self, DocumentError> {
        let config = Object::root(document);
        refuse_unsupported(config)?;
        let rank = |value: &Value| {
            let rank = usize::try_from(value.as_u64()?).ok()?;
            (1..=RANK_MAX).contains(&rank).then_some(rank)
        };
        let positive = |value: &Value| value.as_f64().filter(|v| *v > 0.0 && v.is_finite());
        let ranks = "a whole number from 1 to 65536";
        let alphas = "a finite number above 0";
        let r = required(config.get("r"), "r", ranks)?;
        let alpha = required(config.get("lora_alpha"), "lora_alpha", alphas)?;
        let out_of_range = |key: &str, value: &Value, expected: &str| {
            DocumentError::out_of_range(key, shown_value(value), expected)
        };
        let lora_dropout = config.f64("lora_dropout")?.unwrap_or(0.0);
        if !(0.0..1.0).contains(&lora_dropout) {
            let expected = "a number from 0 to below 1";
            return Err(DocumentError::out_of_range("lora_dropout", lora_dropout, expected));
        }
        let extra = document.iter().filter(|(key, _)| !READ.contains(&key.as_str()));
        Ok(Self {
            base_model_name_or_path: config.str(BASE)?.map(str::to_owned),
            r: rank(r).ok_or_else(|| out_of_range("r", r, ranks))?,
            lora_alpha: positive(alpha).ok_or_else(|| out_of_range("lora_alpha", alpha, alphas))?,
            lora_dropout,
            target_modules: target_modules(config)?,
            use_rslora: config.bool("use_rslora")?.unwrap_or(false),
            variant: LoraVariant::read(config)?,
            rank_pattern: patterns::read(config, "rank_pattern", ranks, rank)?,
            alpha_pattern: patterns::read(config, "alpha_pattern", alphas, positive)?,
            extra: extra.map(|(key, value)| (key.clone(), value.clone())).collect(),
        })
    }

    /// The settings as PEFT reads them, with every field a minimal file has.
    pub fn to_document(&self) -> Map<String, Value> {
        let target_modules = self.target_modules.as_ref().map(|modules| match modules {
            TargetModules::List(names) => Value::from(names.clone()),
            TargetModules::Pattern(pattern) => Value::from(pattern.as_str()),
        });
        let fixed = [
            ("bias", Value::from("none")),
            ("fan_in_fan_out", Value::from(false)),
            ("inference_mode", Value::from(true)),
            ("init_lora_weights", Value::from(true)),
            ("modules_to_save", Value::Null),
            ("task_type", Value::from("CAUSAL_LM")),
        ];
        let own = [
            ("alpha_pattern", patterns::document(&self.alpha_pattern, number)),
            (BASE, Value::from(self.base_model_name_or_path.clone())),
            ("lora_alpha", number(self.lora_alpha)),
            ("lora_dropout", Value::from(self.lora_dropout)),
            ("peft_type", Value::from("LORA")),
            ("r", Value::from(self.r)),
            ("rank_pattern", patterns::document(&self.rank_pattern, Value::from)),
            ("target_modules", Value::from(target_modules)),
            ("use_rslora", Value::from(self.use_rslora)),
        ];
        let named = |(key, value): (&str, Value)| (key.to_owned(), value);
        let mut document: Map<_, _> = fixed.into_iter().map(named).collect();
        document.extend(self.extra.clone());
        document.extend(own.into_iter().chain(self.variant.fields()).map(named));
        document
    }

    /// The rank of the pair at `module`.
    ///
    /// # Errors
    /// [`DocumentError`] if a key of `rank_pattern` is no regular expression.
    pub fn rank_of(&self, module: &str) -> Result<usize, DocumentError> {
        Ok(patterns::lookup("rank_pattern", &self.rank_pattern, module)?.unwrap_or(self.r))
    }

    /// The alpha of the pair at `module`.
    ///
    /// # Errors
    /// [`DocumentError`] if a key of `alpha_pattern` is no regular expression.
    pub fn alpha_of(&self, module: &str) -> Result<f64, DocumentError> {
        let alpha = patterns::lookup("alpha_pattern", &self.alpha_pattern, module)?;
        Ok(alpha.unwrap_or(self.lora_alpha))
    }

    /// What `B A` is multiplied with at `module`.
    ///
    /// # Errors
    /// [`DocumentError`] if a key of a pattern is no regular expression.
    pub fn scale_of(&self, module: &str) -> Result<f64, DocumentError> {
        let (rank, alpha) = (self.rank_of(module)? as f64, self.alpha_of(module)?);
        Ok(if self.use_rslora { alpha / rank.sqrt() } else { alpha / rank })
    }
}

fn refuse_unsupported(config: Object<'_>) -> Result<(), DocumentError> {
    let peft_type = required(config.str("peft_type")?, "peft_type", "\"LORA\"")?;
    if peft_type != "LORA" {
        return Err(DocumentError::unsupported("peft_type", shown(peft_type), "\"LORA\""));
    }
    for (key, only) in [("bias", "none"), ("task_type", "CAUSAL_LM")] {
        if let Some(value) = config.get(key).filter(|value| *value != only) {
            return Err(DocumentError::unsupported(key, shown_value(value), shown(only)));
        }
    }
    for key in REFUSED {
        if let Some(value) = config.get(key).filter(|value| is_on(value)) {
            return Err(DocumentError::unsupported(*key, shown_value(value), "none"));
        }
    }
    refuse_unknown(config)?;
    match config.get("init_lora_weights") {
        None | Some(Value::Bool(_)) => Ok(()),
        Some(Value::String(init)) if INITS.contains(&init.as_str()) => Ok(()),
        Some(other) => {
            let supported = format!("true, false, {}", INITS.join(", "));
            let key = "init_lora_weights";
            Err(DocumentError::unsupported(key, shown_value(other), supported))
        }
    }
}

pub(super) fn is_on(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Bool(true) | Value::Number(_) | Value::String(_) => true,
    }
}

pub(super) fn target_modules(config: Object<'_>) -> Result<Option<TargetModules>, DocumentError> {
    const KEY: &str = "target_modules";
    let Some(value) = config.get(KEY) else { return Ok(None) };
    let wrong = || config.wrong_type(KEY, "a list of module names, or a regular expression", value);
    if let Some(pattern) = value.as_str() {
        return Ok(Some(TargetModules::Pattern(pattern.to_owned())));
    }
    let names = value.as_array().ok_or_else(wrong)?.iter();
    let names: Option<Vec<_>> = names.map(|name| name.as_str().map(str::to_owned)).collect();
    names.map(|names| Some(TargetModules::List(names))).ok_or_else(wrong)
}

/// A whole number without a point, as PEFT writes an alpha that was given as one.
pub(super) fn number(value: f64) -> Value {
    const EXACT: f64 = (1_u64 << 53) as f64;
    if value.fract() == 0.0 && value.abs() < EXACT {
        Value::from(value as i64)
    } else {
        Number::from_f64(value).map_or(Value::Null, Value::Number)
    }
}

/// The two matrices of LoRA at one module.
#[derive(Clone, Copy, Debug)]
pub struct LoraPair<'a> {
    /// HF name of the module.
    pub module: &'a str,
    /// `A` `[rank, inputs]`.
    pub a: Tensor<'a>,
    /// `B` `[outputs, rank]`; rows in HF order, unless whoever made the pair says otherwise.
    pub b: Tensor<'a>,
}

impl LoraPair<'_> {
    /// The rank.
    pub fn rank(&self) -> usize {
        self.a.shape[0]
    }
}

/// All pairs of a file, sorted by module, with what the variant has beside them.
pub(super) fn pairs(
    file: &Weights,
    variant: LoraVariant,
) -> Result<Vec<LoraPair<'_>>, AdapterError> {
    let dora = variant == LoraVariant::Dora;
    let mut modules = BTreeSet::new();
    for name in file.tensor_names() {
        let split = |leaf: &str| name.strip_prefix(PREFIX)?.strip_suffix(leaf)?.strip_suffix('.');
        let length = || if dora { split(MAGNITUDE) } else { None };
        match split(DOWN).or_else(|| split(UP)).or_else(length) {
            Some(module) => modules.insert(module),
            None => {
                let expected = match dora {
                    true => {
                        "names that end with `.lora_A.weight`, `.lora_B.weight` or \
                         `.lora_magnitude_vector`"
                    }
                    false => "names that end with `.lora_A.weight` or `.lora_B.weight`",
                };
                let (name, method) = (name.to_owned(), "LORA".to_owned());
                return Err(AdapterError::Name { name, method, expected });
            }
        };
    }
    let whole = |module| {
        let pair = pair(file, module)?;
        if dora {
            check_magnitude(file, &pair)?;
        }
        Ok(pair)
    };
    modules.into_iter().map(whole).collect()
}

fn pair<'a>(file: &'a Weights, module: &'a str) -> Result<LoraPair<'a>, AdapterError> {
    let (a_name, b_name) = (tensor_name(module, DOWN), tensor_name(module, UP));
    let (a, b) = match (file.tensor(&a_name), file.tensor(&b_name)) {
        (Some(a), Some(b)) => (a, b),
        (None, None) => {
            let present = tensor_name(module, MAGNITUDE);
            return Err(AdapterError::MissingPair { missing: a_name, present });
        }
        (None, _) => return Err(AdapterError::MissingPair { missing: a_name, present: b_name }),
        (_, None) => return Err(AdapterError::MissingPair { missing: b_name, present: a_name }),
    };
    let &[rank, _] = a.shape else {
        return Err(misshapen(a_name, a, "[rank, inputs]".to_owned()));
    };
    match b.shape {
        &[_, columns] if columns == rank => Ok(LoraPair { module, a, b }),
        _ => Err(misshapen(b_name, b, format!("[outputs, {rank}]"))),
    }
}

/// Refuses a pair of DoRA without a length for every output.
fn check_magnitude(file: &Weights, pair: &LoraPair<'_>) -> Result<(), AdapterError> {
    let (name, outputs) = (tensor_name(pair.module, MAGNITUDE), pair.b.shape[0]);
    match file.tensor(&name) {
        Some(tensor) if tensor.shape == [outputs] => Ok(()),
        Some(tensor) => Err(misshapen(name, tensor, format!("[{outputs}]"))),
        None => {
            let present = tensor_name(pair.module, UP);
            Err(AdapterError::MissingPair { missing: name, present })
        }
    }
}

fn misshapen(name: String, tensor: Tensor<'_>, expected: String) -> AdapterError {
    AdapterError::Shape { name, shape: tensor.shape.to_vec(), expected }
}
