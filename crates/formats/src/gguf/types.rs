//! Names of ggml's tensor types, for errors.

use lowtide_quant::formats;

/// Type names by number; empty where a number was given up.
const NAMES: [&str; 40] = [
    "F32", "F16", "Q4_0", "Q4_1", "", "", "Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q2_K", "Q3_K", "Q4_K",
    "Q5_K", "Q6_K", "Q8_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S",
    "IQ4_XS", "I8", "I16", "I32", "I64", "F64", "IQ1_M", "BF16", "", "", "", "TQ1_0", "TQ2_0", "",
    "", "", "MXFP4",
];

/// The type's name, if it has one, and its number.
pub(super) fn describe(id: u32) -> String {
    match NAMES.get(id as usize) {
        Some(name) if !name.is_empty() => format!("{name} ({id})"),
        _ => format!("number {id}"),
    }
}

/// The names of all formats that are read.
pub(super) fn supported() -> String {
    let names: Vec<_> =
        formats::ALL.iter().filter(|f| f.ggml_type().is_some()).map(|f| f.name()).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_formats_go_by_the_same_names() {
        for format in formats::ALL {
            if let Some(id) = format.ggml_type() {
                assert_eq!(NAMES[id as usize], format.name());
            }
        }
        assert_eq!(describe(12), "Q4_K (12)");
        assert_eq!(describe(4), "number 4");
        assert_eq!(describe(u32::MAX), "number 4294967295");
    }
}
