//! Settings of adapters that PEFT does not count as LoRA: IA3 and VeRA as PEFT has them, and
//! methods that PEFT has not, in the same layout.

use std::collections::{BTreeMap, BTreeSet};

use lowtide_names::{Pattern, ends_with};
use serde_json::{Map, Value};

use super::lora::{RANK_MAX, TargetModules, is_on, number, target_modules};
use super::{BASE, VERA, patterns};
use crate::DocumentError;
use crate::document::shown;
use crate::json::{Object, parse_object, required, shown_value};

/// What PEFT calls VeRA's options, which are fields of their own there.
const VERA_OPTIONS: [&str; 2] = ["projection_prng_key", "d_initial"];
/// The option that says how an adapter of the LoRA family is coded. PEFT does not know it, and
/// reads past it.
pub const QUANTIZE: &str = "quantize";
/// IA3's name in PEFT.
const IA3: &str = "IA3";
/// The option of IA3 that is a field of its own.
const FEEDFORWARD: &str = "feedforward_modules";
/// Fields that change the arithmetic when they are set.
const REFUSED: &[&str] = &["fan_in_fan_out", "modules_to_save", "target_parameters"];

/// The settings of an adapter: `adapter_config.json` with any `peft_type` that is not LoRA's.
#[derive(Clone, Debug, PartialEq)]
pub struct MethodConfig {
    /// The method's name in upper case.
    pub peft_type: String,
    /// Where the base came from.
    pub base_model_name_or_path: Option<String>,
    /// Inner width, of methods that have one.
    pub r: usize,
    /// Numerator of the scale, of methods that have one.
    pub alpha: f64,
    /// Chance that a value of the adapter is dropped in training.
    pub dropout: f64,
    /// Ranks that differ from `r`, as LoRA has them.
    pub rank_pattern: Vec<(String, usize)>,
    /// Alphas that differ from `alpha`, as LoRA has them.
    pub alpha_pattern: Vec<(String, f64)>,
    /// Which modules are adapted.
    pub target_modules: Option<TargetModules>,
    /// What the method alone knows, by name.
    pub options: BTreeMap<String, String>,
}

/// Reads the text of an `adapter_config.json` of any method but LoRA's; `modules` are those that
/// the adapter has tensors of.
///
/// # Errors
/// [`DocumentError`], naming the field.
pub fn parse_method_config(
    text: &str,
    modules: &BTreeSet<&str>,
) -> Result<MethodConfig, DocumentError> {
    MethodConfig::from_document(&parse_object(text)?, modules)
}

impl MethodConfig {
    /// Reads the settings of an adapter of any method; `modules` are those that it has tensors of,
    /// among which a regular expression chooses.
    ///
    /// # Errors
    /// [`DocumentError`], naming the field.
    pub fn from_document(
        document: &Map<String, Value>,
        modules: &BTreeSet<&str>,
    ) -> Result<Self, DocumentError> {
        let config = Object::root(document);
        let expected = "the name of a method";
        let peft_type = required(config.str("peft_type")?, "peft_type", expected)?.to_owned();
        for key in REFUSED {
            if let Some(value) = config.get(key).filter(|value| is_on(value)) {
                return Err(DocumentError::unsupported(*key, shown_value(value), "none"));
            }
        }
        let only = "CAUSAL_LM";
        if let Some(value) = config.get("task_type").filter(|value| *value != only) {
            return Err(DocumentError::unsupported("task_type", shown_value(value), shown(only)));
        }
        let (r, ranks) = (config.usize("r")?.unwrap_or(8), "a whole number from 1 to 65536");
        if !(1..=RANK_MAX).contains(&r) {
            return Err(DocumentError::out_of_range("r", r, ranks));
        }
        let rank = |value: &Value| {
            let rank = usize::try_from(value.as_u64()?).ok()?;
            (1..=RANK_MAX).contains(&rank).then_some(rank)
        };
        let positive = |value: &Value| value.as_f64().filter(|v| *v > 0.0 && v.is_finite());
        let alphas = "a finite number above 0";
        let alpha = match config.get("alpha") {
            Some(value) => positive(value)
                .ok_or_else(|| DocumentError::out_of_range("alpha", shown_value(value), alphas))?,
            None => 16.0,
        };
        let dropped = if peft_type == VERA { "vera_dropout" } else { "dropout" };
        let dropout = config.f64(dropped)?.unwrap_or(0.0);
        if !(0.0..1.0).contains(&dropout) {
            let expected = "a number from 0 to below 1";
            return Err(DocumentError::out_of_range(dropped, dropout, expected));
        }
        let options = match peft_type.as_str() {
            IA3 => feedforward(config, modules)?,
            VERA => projections(config)?,
            _ => options(config)?,
        };
        Ok(Self {
            peft_type,
            base_model_name_or_path: config.str(BASE)?.map(str::to_owned),
            r,
            alpha,
            dropout,
            rank_pattern: patterns::read(config, "rank_pattern", ranks, rank)?,
            alpha_pattern: patterns::read(config, "alpha_pattern", alphas, positive)?,
            target_modules: target_modules(config)?,
            options,
        })
    }

    /// The settings as a document: what PEFT has for IA3 and VeRA, all fields for other methods.
    ///
    /// PEFT wants IA3's feed-forward modules to be among its targets: of a list of targets, they
    /// are those that the option's names end.
    pub fn to_document(&self) -> Map<String, Value> {
        let targets = self.target_modules.as_ref().map(|modules| match modules {
            TargetModules::List(names) => Value::from(names.clone()),
            TargetModules::Pattern(pattern) => Value::from(pattern.as_str()),
        });
        let mut fields = vec![
            (BASE, Value::from(self.base_model_name_or_path.clone())),
            ("inference_mode", Value::from(true)),
            ("peft_type", Value::from(self.peft_type.as_str())),
            ("target_modules", Value::from(targets)),
            ("task_type", Value::from("CAUSAL_LM")),
        ];
        fields.extend(match self.peft_type.as_str() {
            IA3 => self.ia3_fields(),
            VERA => self.vera_fields(),
            _ => self.own_fields(),
        });
        fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    fn ia3_fields(&self) -> Vec<(&'static str, Value)> {
        let named = self.options.get(FEEDFORWARD).map_or("down_proj", |names| names);
        let named: Vec<&str> = named.split(',').map(str::trim).collect();
        let ends = |target: &&String| named.iter().any(|name| ends_with(target, name));
        let there: Vec<&str> = match &self.target_modules {
            Some(TargetModules::List(targets)) => {
                targets.iter().filter(ends).map(String::as_str).collect()
            }
            Some(TargetModules::Pattern(_)) | None => named,
        };
        vec![
            ("fan_in_fan_out", Value::from(false)),
            (FEEDFORWARD, Value::from(there)),
            ("init_ia3_weights", Value::from(true)),
            ("modules_to_save", Value::Null),
        ]
    }

    /// Options that are no numbers are left to PEFT's defaults, as in a method that was not told.
    fn vera_fields(&self) -> Vec<(&'static str, Value)> {
        let option = |name: &str| self.options.get(name);
        let key: u64 = option(VERA_OPTIONS[0]).and_then(|v| v.parse().ok()).unwrap_or(0);
        let start: f64 = option(VERA_OPTIONS[1]).and_then(|v| v.parse().ok()).unwrap_or(0.1);
        let mut fields = vec![
            ("bias", Value::from("none")),
            (VERA_OPTIONS[1], Value::from(start)),
            ("fan_in_fan_out", Value::from(false)),
            ("init_weights", Value::from(true)),
            ("modules_to_save", Value::Null),
            (VERA_OPTIONS[0], Value::from(key)),
            ("r", Value::from(self.r)),
            ("save_projection", Value::from(false)),
            ("vera_dropout", Value::from(self.dropout)),
        ];
        fields.extend(option(QUANTIZE).map(|codes| (QUANTIZE, Value::from(codes.as_str()))));
        fields
    }

    /// Of methods that PEFT has not.
    fn own_fields(&self) -> Vec<(&'static str, Value)> {
        let options = self.options.iter().map(|(k, v)| (k.clone(), Value::from(v.as_str())));
        vec![
            ("alpha", number(self.alpha)),
            ("alpha_pattern", patterns::document(&self.alpha_pattern, number)),
            ("dropout", Value::from(self.dropout)),
            ("options", Value::Object(options.collect())),
            ("r", Value::from(self.r)),
            ("rank_pattern", patterns::document(&self.rank_pattern, Value::from)),
        ]
    }
}

/// VeRA's key and start as the options of these names.
fn projections(config: Object<'_>) -> Result<BTreeMap<String, String>, DocumentError> {
    if let Some(value) = config.get("bias").filter(|value| *value != "none") {
        return Err(DocumentError::unsupported("bias", shown_value(value), shown("none")));
    }
    let [key, start] = VERA_OPTIONS;
    let mut options = BTreeMap::new();
    if let Some(value) = config.get(key) {
        let number = value.as_u64().ok_or_else(|| {
            DocumentError::out_of_range(key, shown_value(value), "a whole number from 0")
        })?;
        options.insert(key.to_owned(), number.to_string());
    }
    if let Some(number) = config.f64(start)? {
        options.insert(start.to_owned(), number.to_string());
    }
    if let Some(codes) = config.str(QUANTIZE)? {
        options.insert(QUANTIZE.to_owned(), codes.to_owned());
    }
    Ok(options)
}

/// IA3's feed-forward modules as the option that lists them. A text is a regular expression for
/// whole names of modules: the option lists those of `modules` that it matches.
fn feedforward(
    config: Object<'_>,
    modules: &BTreeSet<&str>,
) -> Result<BTreeMap<String, String>, DocumentError> {
    let Some(value) = config.get(FEEDFORWARD) else { return Ok(BTreeMap::new()) };
    let expected = "a list of module names, or a regular expression";
    let wrong = || config.wrong_type(FEEDFORWARD, expected, value);
    let names = match value {
        Value::String(pattern) => matched(&patterns::whole(FEEDFORWARD, pattern)?, modules),
        Value::Array(names) => {
            let names = names.iter().map(Value::as_str).collect::<Option<Vec<_>>>();
            names.ok_or_else(wrong)?
        }
        _ => return Err(wrong()),
    };
    // A list without names is an option that none matches.
    let names = if names.is_empty() { "none".to_owned() } else { names.join(",") };
    Ok(BTreeMap::from([(FEEDFORWARD.to_owned(), names)]))
}

/// The shortest names that end just those of `modules` that `pattern` matches: last parts where it
/// matches every module that ends so, whole names otherwise.
fn matched<'m>(pattern: &Pattern, modules: &BTreeSet<&'m str>) -> Vec<&'m str> {
    let last = |module: &'m str| module.rsplit('.').next().unwrap_or(module);
    let (inside, others): (Vec<&str>, Vec<&str>) =
        modules.iter().partition(|module| pattern.matches(module));
    let others: BTreeSet<&str> = others.into_iter().map(last).collect();
    let short = |module| if others.contains(last(module)) { module } else { last(module) };
    let names: BTreeSet<&str> = inside.into_iter().map(short).collect();
    names.into_iter().collect()
}

fn options(config: Object<'_>) -> Result<BTreeMap<String, String>, DocumentError> {
    let Some(options) = config.object("options")? else { return Ok(BTreeMap::new()) };
    let fields = options.fields().map(|(name, value)| match value.as_str() {
        Some(text) => Ok((name.to_owned(), text.to_owned())),
        None => Err(options.wrong_type(name, "a text", value)),
    });
    fields.collect()
}
