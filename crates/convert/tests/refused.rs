//! What is not converted, and that nothing is left behind then.

mod support;

use std::fs;

use lowtide_convert::{Kind, Settings};
use lowtide_testkit::golden::load_safetensors;
use lowtide_testkit::tiny::write_safetensors;
use support::{files, golden, refused, run, settings};

#[test]
fn outputs_that_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let (gguf, folder) = (dir.path().join("m.gguf"), dir.path().join("m"));
    run(&golden("llama_tied"), &gguf, None);
    let before = fs::read(&gguf).unwrap();
    let error = refused(&settings(&golden("qwen2"), &gguf, None)).to_string();
    let words = "m.gguf is there already; give another name, or --overwrite to replace it";
    assert!(error.ends_with(words), "{error}");
    assert_eq!(fs::read(&gguf).unwrap(), before);
    let over = Settings { overwrite: true, ..settings(&gguf, &gguf, Some(Kind::F16)) };
    let error = refused(&over).to_string();
    assert!(error.ends_with("m.gguf is a part of what is to be read; give another name"));
    assert_eq!(fs::read(&gguf).unwrap(), before);
    run(&gguf, &folder, None);
    let over = Settings { overwrite: true, ..settings(&folder, &folder, Some(Kind::F16)) };
    assert!(refused(&over).to_string().contains("a part of what is to be read"));
    assert!(refused(&settings(&gguf, &folder, None)).to_string().contains("is there already"));
    fs::create_dir(dir.path().join("empty")).unwrap();
    run(&gguf, &dir.path().join("empty"), None);
}

#[test]
fn types_and_budgets() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("folder");
    let error = refused(&settings(&golden("llama_tied"), &output, Some(Kind::Q4_0))).to_string();
    assert!(error.starts_with("type q4_0 cannot be written to "), "{error}");
    let gguf = dir.path().join("m.gguf");
    let small = Settings {
        memory_budget: 1000,
        ..settings(&golden("llama_tied"), &gguf, Some(Kind::Q8_0))
    };
    let error = refused(&small).to_string();
    assert!(error.starts_with("the memory budget of 1000 bytes is too small"), "{error}");
    let needed = error.split("take ").nth(1).unwrap().split(' ').next().unwrap();
    let enough = Settings { memory_budget: needed.parse().unwrap(), ..small };
    lowtide_convert::convert(&enough, &mut |_| ()).unwrap();
    assert_eq!(files(dir.path()), ["m.gguf"]);
}

#[test]
fn values_that_a_type_cannot_hold() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::copy(golden("llama_tied").join("config.json"), source.join("config.json")).unwrap();
    let name = "model.layers.1.mlp.up_proj.weight";
    for value in [f32::NAN, f32::INFINITY, 1e30] {
        let mut arrays = load_safetensors(&golden("llama_tied").join("model.safetensors"));
        arrays.get_mut(name).unwrap().data[5 * 64 + 3] = value;
        write_safetensors(&source.join("model.safetensors"), &arrays);
        // The source is F32: a value that it holds is copied, unless it is none.
        let copied = [(Kind::F32, "m.gguf"), (Kind::F32, "m")];
        let copied = copied.into_iter().filter(|_| !value.is_finite());
        let packed = [(Kind::Q8_0, "m.gguf"), (Kind::F16, "m.gguf"), (Kind::F16, "m")];
        for (kind, output) in packed.into_iter().chain(copied) {
            let output = dir.path().join(output);
            let error = refused(&settings(&source, &output, Some(kind))).to_string();
            let words =
                format!("tensor `{name}` holds a value in row 5 that {}", kind.format().name());
            assert!(error.contains(&words), "{error}");
            assert_eq!(files(dir.path()), ["source"], "nothing is left behind");
        }
    }
}

#[test]
fn a_place_that_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let absent = dir.path().join("no/such/folder/m.gguf");
    let error = refused(&settings(&golden("llama_tied"), &absent, None)).to_string();
    assert!(error.contains("cannot write"), "{error}");
    assert!(files(dir.path()).is_empty());
}

#[test]
fn sources_that_are_none() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("m.gguf");
    let absent = dir.path().join("absent");
    assert!(refused(&settings(&absent, &output, None)).to_string().contains("absent"));
    let adapter = golden("formats/l4.gguf");
    let error = refused(&settings(&adapter, &output, None)).to_string();
    assert!(error.contains("`general.type` is \"adapter\""), "{error}");
    assert!(files(dir.path()).is_empty());
}
