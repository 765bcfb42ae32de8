//! What is read, looked at before it is opened, so that a name mistyped is told by its flag.

use std::path::Path;

use lowtide::Settings;
use lowtide::hub::{Event, Hub, ModelId};
use serde::Serialize;

use super::args::Voice;
use super::console::Console;
use super::failure::Failure;
use super::show::number;

const ADAPTER: &str = "an adapter is a folder with adapter_config.json and \
                       adapter_model.safetensors, or a .gguf file";

/// Looks at everything that a run reads.
pub(crate) fn check_all(settings: &Settings, voice: Voice) -> Result<(), Failure> {
    base("model", &settings.model, voice)?;
    check("data", &settings.data)?;
    match &settings.init_adapter {
        Some(adapter) => check_adapter("init-adapter", adapter),
        None => Ok(()),
    }
}

/// What `--json` prints while a base is downloaded.
#[derive(Serialize)]
struct Download<'a> {
    event: &'static str,
    file: &'a str,
    bytes: u64,
}

/// Sees to it that a base is on this machine: a path at which something is, or a hub id, whose
/// files are downloaded unless they are in the cache.
pub(crate) fn base(flag: &'static str, path: &Path, voice: Voice) -> Result<(), Failure> {
    let Some(id) = ModelId::of_missing(path) else { return check(flag, path) };
    let mut console = Console::new(voice);
    let fetched = Hub::of_user().and_then(|hub| hub.fetch(&id, &mut |e| tell(e, &mut console)));
    console.settle();
    match fetched {
        Ok(_) => Ok(console.finish()?),
        Err(error) => Err(Failure::Hub { flag, error }),
    }
}

/// One file of a download: a live line while it comes, a line of its own when it is here.
fn tell(event: Event<'_>, console: &mut Console) {
    let Event { file, done, total } = event;
    if done < total {
        let amount = format!("{} of {}", number::bytes(done), number::bytes(total));
        return console.advance(done, total, format!("downloading {file}"), amount);
    }
    console.settle();
    console.json(&Download { event: "downloaded", file, bytes: total });
    console.text(&format!("downloaded {file} ({})\n", number::bytes(total)));
}

/// Refuses a path at which nothing is. All else is told by what opens it.
pub(crate) fn check(flag: &'static str, path: &Path) -> Result<(), Failure> {
    match path.exists() {
        true => Ok(()),
        false => refuse(flag, path, "no such file or folder".into()),
    }
}

/// Refuses what is no adapter's folder or file.
pub(crate) fn check_adapter(flag: &'static str, path: &Path) -> Result<(), Failure> {
    check(flag, path)?;
    if !path.is_dir() && path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf")) {
        return Ok(());
    }
    if !path.is_dir() {
        return refuse(flag, path, format!("it is a file; {ADAPTER}"));
    }
    match path.join("adapter_config.json").exists() {
        true => Ok(()),
        false => refuse(flag, path, format!("no adapter_config.json in it; {ADAPTER}")),
    }
}

fn refuse(flag: &'static str, path: &Path, reason: String) -> Result<(), Failure> {
    Err(Failure::Input { flag, path: path.to_owned(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_or_no_adapter_is_told_by_its_flag() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |name: &str| {
            let path = folder.path().join(name);
            let text = check_adapter("adapter", &path).unwrap_err().to_string();
            let (named, reason) = text.split_once(": ").unwrap();
            assert_eq!(named, format!("--adapter {}", path.display()));
            reason.to_owned()
        };
        assert_eq!(refused("absent"), "no such file or folder");
        std::fs::write(folder.path().join("a.safetensors"), "").unwrap();
        assert_eq!(refused("a.safetensors"), format!("it is a file; {ADAPTER}"));
        std::fs::create_dir(folder.path().join("a")).unwrap();
        assert_eq!(refused("a"), format!("no adapter_config.json in it; {ADAPTER}"));
        std::fs::write(folder.path().join("a/adapter_config.json"), "").unwrap();
        assert!(check_adapter("adapter", &folder.path().join("a")).is_ok());
        std::fs::write(folder.path().join("a.gguf"), "").unwrap();
        assert!(check_adapter("adapter", &folder.path().join("a.gguf")).is_ok());
        assert!(check("data", &folder.path().join("a.safetensors")).is_ok());
    }
}
