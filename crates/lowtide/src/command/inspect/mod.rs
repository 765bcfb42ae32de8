//! `lowtide inspect`: what is in a model, an adapter or a data file.

mod adapter;
mod data;
mod model;
mod text;

use std::path::Path;

use lowtide::TrainError;
use lowtide::formats::gguf::Gguf;
use lowtide::formats::gguf_adapter;
use lowtide::hub::ModelId;
use serde::Serialize;

use super::args::InspectArgs;
use super::console::Console;
use super::failure::Failure;
use super::inputs;

const EXPECTED: &str = "expected a .gguf file (a model or an adapter), a folder with config.json \
                        (a model) or adapter_config.json (an adapter), or a .jsonl or .txt file \
                        or a folder with train.jsonl (data)";

/// What a path can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Model,
    Adapter,
    Data,
}

/// Runs `lowtide inspect`.
pub(crate) fn run(args: &InspectArgs) -> Result<(), Failure> {
    let path = &args.path;
    let is_id = ModelId::of_missing(path).is_some();
    if is_id {
        inputs::base("model", path, args.voice)?;
    }
    let kind = kind_of(path).or(is_id.then_some(Kind::Model)).ok_or_else(|| Failure::Path {
        path: path.clone(),
        reason: match path.exists() {
            true => format!("neither model nor adapter nor data; {EXPECTED}"),
            false => "no such file or folder".into(),
        },
    })?;
    if let Some(model) = &args.model {
        inputs::base("model", model, args.voice)?;
    }
    let mut console = Console::new(args.voice);
    match kind {
        Kind::Model => {
            let report = read(model::inspect(path, args.tensors))?;
            tell(&mut console, &report, |_| model::text(&report, args.template));
        }
        Kind::Adapter => {
            let report = read(adapter::inspect(path, args.tensors))?;
            tell(&mut console, &report, |_| adapter::text(&report));
        }
        Kind::Data => {
            let report = read(data::inspect(args))?;
            tell(&mut console, &report, |coloured| data::text(&report, coloured));
        }
    }
    Ok(console.finish()?)
}

fn read<T>(report: Result<T, TrainError>) -> Result<T, Failure> {
    report.map_err(|error| Failure::Files(error.into()))
}

fn tell<T: Serialize>(console: &mut Console, report: &T, text: impl FnOnce(bool) -> String) {
    console.json(report);
    let coloured = console.coloured();
    console.text(&text(coloured));
}

/// Told by names alone, but for GGUF files, which say whether they are adapters; all else inside is
/// told by what opens it.
fn kind_of(path: &Path) -> Option<Kind> {
    let has = |name: &str| path.join(name).is_file();
    if path.is_dir() {
        return match () {
            () if has("adapter_config.json") => Some(Kind::Adapter),
            () if has("config.json") => Some(Kind::Model),
            () if has("train.jsonl") => Some(Kind::Data),
            () => None,
        };
    }
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    let kind = match extension.as_str() {
        "gguf" => match Gguf::open(path) {
            Ok(file) if gguf_adapter::is_adapter(&file) => Kind::Adapter,
            _ => Kind::Model,
        },
        "jsonl" | "ndjson" | "txt" | "text" => Kind::Data,
        _ => return None,
    };
    path.is_file().then_some(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_known_by_its_names() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        };
        for name in ["m.GGUF", "d.jsonl", "d.txt", "x.bin", "bare", "hf/config.json"] {
            file(name);
        }
        for name in ["peft/adapter_config.json", "peft/config.json", "d/train.jsonl", "none/x"] {
            file(name);
        }
        let kind = |name: &str| kind_of(&folder.path().join(name));
        assert_eq!([kind("m.GGUF"), kind("hf")], [Some(Kind::Model); 2]);
        assert_eq!([kind("d.jsonl"), kind("d.txt"), kind("d")], [Some(Kind::Data); 3]);
        assert_eq!(kind("peft"), Some(Kind::Adapter));
        for other in ["x.bin", "bare", "none", "absent.gguf", "absent"] {
            assert_eq!(kind(other), None, "{other}");
        }
    }
}
