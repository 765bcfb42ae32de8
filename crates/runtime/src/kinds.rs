//! What methods are called in PEFT's folders.
//!
//! PEFT counts several methods as LoRA and tells them apart by settings. A method by another name
//! that computes the same as LoRA is saved as LoRA, so that everything that reads LoRA reads it.

use std::collections::BTreeMap;

use lowtide_adapter::Config;
use lowtide_formats::peft::{LoraConfig, LoraVariant, QUANTIZE};
use lowtide_lora::QaLora;
use lowtide_quant::LineCodes;

/// QA-LoRA's option.
pub(crate) const GROUP_SIZE: &str = "group_size";

/// What PEFT's settings say of a method of the LoRA family, or nothing if it is no LoRA in PEFT.
///
/// Only what the method and `config` say is set; names, modules and patterns are the caller's.
#[must_use]
pub fn lora_config(kind: &str, config: &Config) -> Option<LoraConfig> {
    let variant = match kind {
        "lora" | "lora-fa" | "rslora" => LoraVariant::Plain,
        "dora" => LoraVariant::Dora,
        "qalora" => {
            let given = config.options.get(GROUP_SIZE).and_then(|size| size.parse().ok());
            LoraVariant::QaLora { group_size: given.unwrap_or(QaLora::GROUP_SIZE) }
        }
        _ => return None,
    };
    let coded = config.options.get(QUANTIZE);
    Some(LoraConfig {
        r: config.rank,
        lora_alpha: config.alpha,
        lora_dropout: config.dropout,
        use_rslora: config.use_rslora || kind == "rslora",
        variant,
        extra: coded
            .map(|codes| (QUANTIZE.to_owned(), codes.as_str().into()))
            .into_iter()
            .collect(),
        ..LoraConfig::default()
    })
}

/// The name of the method that PEFT's settings of LoRA ask for, and how it is built: the other way
/// round.
pub(crate) fn of_lora(said: &LoraConfig) -> (&'static str, Config) {
    let mut options = BTreeMap::new();
    if let Some(codes) = said.extra.get(QUANTIZE).and_then(|codes| codes.as_str()) {
        options.insert(QUANTIZE.to_owned(), codes.to_owned());
    }
    let kind = match said.variant {
        LoraVariant::Plain => "lora",
        LoraVariant::Dora => "dora",
        LoraVariant::QaLora { group_size } => {
            options.insert(GROUP_SIZE.to_owned(), group_size.to_string());
            "qalora"
        }
    };
    let config = Config {
        rank: said.r,
        alpha: said.lora_alpha,
        dropout: said.lora_dropout,
        use_rslora: said.use_rslora,
        options,
    };
    (kind, config)
}

/// Whether a method is of the LoRA family, which can be trained in few bits.
pub(crate) fn can_be_coded(kind: &str) -> bool {
    matches!(kind, "lora" | "rslora" | "lora-fa" | "dora" | "vera" | "qalora")
}

/// The codes that an adapter is trained in, if it is: the option `quantize` of the LoRA family.
#[must_use]
pub fn codes_in_training(kind: &str, config: &Config) -> Option<LineCodes> {
    let name = config.options.get(QUANTIZE).filter(|_| can_be_coded(kind))?;
    LineCodes::named(name)
}

/// Whether an adapter of the one method can be gone on with as one of the other: their tensors are
/// the same, and so is what they compute.
#[must_use]
pub fn same_tensors(one: &str, other: &str) -> bool {
    let plain = |kind: &str| matches!(kind, "lora" | "rslora" | "lora-fa");
    one == other || plain(one) && plain(other)
}
