//! Which crate may depend on which.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Finding;

/// Our crates from bottom to top, each with those it may depend on: a subset of what is above it in
/// this table, because some crates must not know some layer below them. Development dependencies
/// are free.
const LAYERS: &[(&str, &[&str])] = &[
    ("lowtide-names", &[]),
    ("lowtide-memory", &[]),
    ("lowtide-tensor", &[]),
    ("lowtide-quant", &["lowtide-tensor"]),
    ("lowtide-backend", &["lowtide-tensor", "lowtide-quant"]),
    ("lowtide-adapter", &["lowtide-tensor", "lowtide-quant", "lowtide-backend"]),
    ("lowtide-lora", &["lowtide-tensor", "lowtide-quant", "lowtide-backend", "lowtide-adapter"]),
    ("lowtide-ia3", &["lowtide-tensor", "lowtide-backend", "lowtide-adapter"]),
    ("lowtide-lars", &["lowtide-tensor", "lowtide-backend", "lowtide-adapter"]),
    ("lowtide-bottleneck", &["lowtide-tensor", "lowtide-backend", "lowtide-adapter"]),
    ("lowtide-optim", &["lowtide-tensor", "lowtide-quant", "lowtide-backend"]),
    ("lowtide-lanes", &["lowtide-tensor"]),
    ("lowtide-kernels", &["lowtide-tensor", "lowtide-quant"]),
    (
        "lowtide-simd",
        &["lowtide-tensor", "lowtide-quant", "lowtide-backend", "lowtide-lanes", "lowtide-kernels"],
    ),
    ("lowtide-ndarray", &["lowtide-tensor", "lowtide-quant", "lowtide-backend", "lowtide-lanes"]),
    (
        "lowtide-conformance",
        &["lowtide-tensor", "lowtide-quant", "lowtide-backend", "lowtide-adapter", "lowtide-optim"],
    ),
    (
        "lowtide-tape",
        &[
            "lowtide-memory",
            "lowtide-tensor",
            "lowtide-quant",
            "lowtide-backend",
            "lowtide-adapter",
        ],
    ),
    ("lowtide-hub", &[]),
    ("lowtide-formats", &["lowtide-names", "lowtide-tensor", "lowtide-quant"]),
    (
        "lowtide-model",
        &[
            "lowtide-names",
            "lowtide-memory",
            "lowtide-tensor",
            "lowtide-quant",
            "lowtide-backend",
            "lowtide-adapter",
            "lowtide-tape",
        ],
    ),
    ("lowtide-data", &[]),
    ("lowtide-convert", &["lowtide-memory", "lowtide-quant", "lowtide-formats", "lowtide-data"]),
    (
        "lowtide-runtime",
        &[
            "lowtide-memory",
            "lowtide-tensor",
            "lowtide-quant",
            "lowtide-backend",
            "lowtide-adapter",
            "lowtide-lora",
            "lowtide-ia3",
            "lowtide-lars",
            "lowtide-bottleneck",
            "lowtide-tape",
            "lowtide-hub",
            "lowtide-formats",
            "lowtide-model",
            "lowtide-data",
            "lowtide-convert",
        ],
    ),
    (
        "lowtide-train",
        &[
            "lowtide-memory",
            "lowtide-tensor",
            "lowtide-quant",
            "lowtide-backend",
            "lowtide-adapter",
            "lowtide-optim",
            "lowtide-tape",
            "lowtide-formats",
            "lowtide-model",
            "lowtide-data",
            "lowtide-runtime",
        ],
    ),
    (
        "lowtide-bench",
        &[
            "lowtide-memory",
            "lowtide-tensor",
            "lowtide-quant",
            "lowtide-backend",
            "lowtide-adapter",
            "lowtide-optim",
            "lowtide-tape",
            "lowtide-formats",
            "lowtide-model",
            "lowtide-data",
            "lowtide-runtime",
            "lowtide-train",
        ],
    ),
    (
        "lowtide",
        &[
            "lowtide-memory",
            "lowtide-tensor",
            "lowtide-quant",
            "lowtide-backend",
            "lowtide-adapter",
            "lowtide-lora",
            "lowtide-ia3",
            "lowtide-lars",
            "lowtide-bottleneck",
            "lowtide-optim",
            "lowtide-kernels",
            "lowtide-simd",
            "lowtide-ndarray",
            "lowtide-tape",
            "lowtide-hub",
            "lowtide-formats",
            "lowtide-model",
            "lowtide-data",
            "lowtide-convert",
            "lowtide-runtime",
            "lowtide-train",
            "lowtide-bench",
        ],
    ),
];

/// Packages beside the tower: they may depend on anything in it, and nothing in it on them.
const BESIDE: [&str; 4] = ["custom-adapter", "lowtide-testkit", "lowtide-benches", "xtask"];

/// Libraries that mark a layer, with the only crates of ours that may use them.
const LIBRARIES: &[(&str, &[&str])] = &[
    ("clap", &["lowtide"]),
    ("clap_complete", &["lowtide"]),
    ("clap_mangen", &["lowtide"]),
    ("hf-hub", &["lowtide-hub"]),
    ("indicatif", &["lowtide"]),
    ("maud", &["lowtide-train", "lowtide-bench"]),
    ("memmap2", &["lowtide-memory", "lowtide-formats", "lowtide-data"]),
    ("minijinja", &["lowtide-data"]),
    ("ndarray", &["lowtide-ndarray"]),
    ("rayon", &["lowtide-lanes", "lowtide-conformance", "lowtide-convert", "lowtide"]),
    ("regex", &["lowtide-names"]),
    ("safetensors", &["lowtide-formats"]),
    ("tokenizers", &["lowtide-data"]),
    ("ureq", &["lowtide-hub"]),
];

/// Checks the normal and build dependencies in the output of `cargo metadata --no-deps`.
pub(super) fn check(metadata: &Value) -> Vec<Finding> {
    let layers: BTreeMap<&str, &[&str]> = LAYERS.iter().copied().collect();
    let mut findings = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        if BESIDE.contains(&name) {
            continue;
        }
        let Some(allowed) = layers.get(name) else {
            findings.push(Finding::error(name, None, "is in no layer of xtask/src/tidy/layers.rs"));
            continue;
        };
        let dependencies = package["dependencies"].as_array().into_iter().flatten();
        for dependency in dependencies.filter(|dependency| dependency["kind"] != "dev") {
            let on = dependency["name"].as_str().unwrap_or_default();
            if ours(on) && !allowed.contains(&on) {
                findings.push(Finding::error(name, None, format!("must not depend on {on}")));
            }
            let users = LIBRARIES.iter().find(|(library, _)| *library == on);
            if users.is_some_and(|(_, users)| !users.contains(&name)) {
                findings.push(Finding::error(name, None, format!("must not use the crate {on}")));
            }
        }
    }
    findings
}

fn ours(name: &str) -> bool {
    name == "lowtide" || name.starts_with("lowtide-") || BESIDE.contains(&name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn says(package: &str, kind: Option<&str>, on: &str) -> Vec<String> {
        let dependency = json!({ "name": on, "kind": kind });
        let package = json!({ "name": package, "dependencies": [dependency] });
        let findings = check(&json!({ "packages": [package] }));
        findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_table_only_points_up() {
        for (place, (name, allowed)) in LAYERS.iter().enumerate() {
            for on in *allowed {
                let above = LAYERS.iter().position(|(layer, _)| layer == on);
                assert!(above.is_some_and(|above| above < place), "{name} on {on}");
            }
        }
    }

    #[test]
    fn forbidden_arrows_are_found() {
        assert_eq!(says("lowtide-tape", None, "lowtide-tensor"), [""; 0]);
        let want = "error: lowtide-tape: must not depend on lowtide-lora";
        assert_eq!(says("lowtide-tape", None, "lowtide-lora"), [want]);
        assert_eq!(says("lowtide-tape", Some("build"), "lowtide-lora"), [want]);
        assert_eq!(says("lowtide-tape", Some("dev"), "lowtide-lora"), [""; 0]);
        let want = "error: lowtide-conformance: must not depend on lowtide-ndarray";
        assert_eq!(says("lowtide-conformance", None, "lowtide-ndarray"), [want]);
        let want = "error: lowtide-model: must not depend on lowtide-testkit";
        assert_eq!(says("lowtide-model", None, "lowtide-testkit"), [want]);
        assert_eq!(says("lowtide-testkit", None, "lowtide-train"), [""; 0]);
    }

    #[test]
    fn libraries_stay_in_their_layer() {
        assert_eq!(says("lowtide-ndarray", None, "ndarray"), [""; 0]);
        let want = "error: lowtide-tape: must not use the crate rayon";
        assert_eq!(says("lowtide-tape", None, "rayon"), [want]);
        assert_eq!(says("lowtide-tape", None, "thiserror"), [""; 0]);
    }

    #[test]
    fn a_crate_without_a_layer_is_found() {
        let want = "error: lowtide-new: is in no layer of xtask/src/tidy/layers.rs";
        assert_eq!(says("lowtide-new", None, "lowtide-tensor"), [want]);
    }
}
