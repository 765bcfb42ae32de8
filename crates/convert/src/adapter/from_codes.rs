//! Adapters in codes into the folders of floats that PEFT reads.

use lowtide_formats::peft::{self, AdapterFiles, AdapterTensor, LoraConfig, MethodConfig};
use lowtide_formats::safe::Values;

use super::size;
use crate::{AdapterReport, AdapterSettings, ConvertError};

/// Converts the folder that `settings` name, of any method.
pub(super) fn convert(settings: &AdapterSettings) -> Result<AdapterReport, ConvertError> {
    let files = AdapterFiles::open(&settings.source)?;
    let codes = files.codes().expect("a folder that was seen to have a file of codes");
    let (config, modules) = (files.config_of_floats(), files.modules());
    let (rank, alpha) = match files.peft_type() {
        "LORA" => files.lora().map(|(LoraConfig { r, lora_alpha, .. }, _)| (r, lora_alpha))?,
        _ => files.method().map(|(MethodConfig { r, alpha, .. }, _)| (r, alpha))?,
    };
    let tensors: Vec<_> = files
        .parameters()
        .map(|(module, parameter, tensor)| AdapterTensor {
            module: module.to_owned(),
            parameter: parameter.to_owned(),
            shape: tensor.shape.to_vec(),
            values: Values::Stored(tensor),
            permuted: None,
        })
        .collect();
    peft::write(&settings.output, &config, &tensors)?;
    let written = [peft::CONFIG_FILE, peft::WEIGHTS_FILE];
    Ok(AdapterReport {
        event: "done",
        output: settings.output.display().to_string(),
        format: "peft",
        rank,
        alpha,
        modules,
        tensors: tensors.len(),
        parameters: files.parameters().map(|(.., tensor)| tensor.len() as u64).sum(),
        bytes_after: written.iter().map(|name| size(&settings.output.join(name))).sum(),
        notes: vec![format!("the numbers are those that the codes of {} stand for", codes.name())],
    })
}
