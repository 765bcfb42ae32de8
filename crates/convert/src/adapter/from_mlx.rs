//! Adapters of mlx-lm into PEFT folders and GGUF files.

use lowtide_formats::Base;
use lowtide_formats::mlx::MlxAdapter;
use lowtide_formats::peft::{LoraConfig, LoraPair};

use super::{NO_DROPOUT, check_alpha, check_base, report, size, write_gguf, write_peft};
use crate::{AdapterReport, AdapterSettings, ConvertError};

/// Converts the folder of mlx-lm that `settings` name.
pub(super) fn convert(
    settings: &AdapterSettings,
    to_gguf: bool,
) -> Result<AdapterReport, ConvertError> {
    let adapter = MlxAdapter::open(&settings.source)?;
    if to_gguf { into_gguf(settings, &adapter) } else { into_peft(settings, &adapter) }
}

fn into_gguf(
    settings: &AdapterSettings,
    adapter: &MlxAdapter,
) -> Result<AdapterReport, ConvertError> {
    let pairs: Vec<LoraPair<'_>> = adapter.pairs().collect();
    let said = adapter.config();
    let alpha = said.alpha();
    check_alpha(&settings.source, alpha)?;
    let alpha = write_gguf(settings, (alpha, &[]), &pairs)?;
    let notes = if said.dropout > 0.0 { vec![NO_DROPOUT.to_owned()] } else { Vec::new() };
    Ok(report(settings, "gguf", alpha, &pairs, size(&settings.output), notes))
}

fn into_peft(
    settings: &AdapterSettings,
    adapter: &MlxAdapter,
) -> Result<AdapterReport, ConvertError> {
    let base = Base::open(&settings.base)?;
    let pairs: Vec<LoraPair<'_>> = adapter.pairs().collect();
    check_base(settings, &base, &pairs)?;
    let said = adapter.config();
    let config = LoraConfig {
        r: said.rank,
        lora_alpha: said.alpha(),
        lora_dropout: said.dropout,
        ..LoraConfig::default()
    };
    write_peft(settings, &base, config, &pairs, |_| None)
}
