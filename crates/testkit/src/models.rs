//! Where the real models lie; they are fetched by `cargo xtask model`, never committed.

use std::path::PathBuf;

use crate::golden::repository_root;

/// The folder `models` of this checkout; it need not exist.
#[must_use]
pub fn models_dir() -> PathBuf {
    repository_root().join("models")
}

/// What `lowtide quickstart` trains: a Llama of 1.25 million parameters in Q8_0, with a tokenizer.
/// The smallest base here whose weights are packed, as those of real models are.
#[must_use]
pub fn quickstart() -> PathBuf {
    repository_root().join("crates/lowtide/assets/quickstart/model.gguf")
}

/// SmolLM2-135M-Instruct as a GGUF file, or `None` with a loud line that says how to get it. Tests
/// then return early; `cargo xtask test` fetches the model first, so there none is skipped.
#[must_use]
pub fn smollm2() -> Option<PathBuf> {
    let path = models_dir().join("smollm2-135m-instruct.gguf");
    if path.is_file() {
        return Some(path);
    }
    announce("skipped: run `cargo xtask model smollm2`");
    None
}

/// Writes past the capture of test output, which would hide the line of a passing test.
fn announce(line: &str) {
    use std::io::Write;

    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // A closed stderr must not fail the test that only wanted to say it was skipped.
    let _ = writeln!(std::io::stderr(), "{test}: {line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_lie_next_to_the_crates() {
        assert_eq!(models_dir().parent(), Some(repository_root().as_path()));
        assert!(repository_root().join("crates").join("testkit").is_dir());
        assert_eq!(quickstart().metadata().unwrap().len(), 1_371_808);
        if let Some(path) = smollm2() {
            assert_eq!(path.metadata().unwrap().len(), 98_362_432);
        }
    }
}
