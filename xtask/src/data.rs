//! `cargo xtask data`: real training data, made from what is already on any machine with Rust.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{files, run};

/// Longest completion in characters. It cuts about a tenth of the explanations, at the end of a
/// paragraph, so that an example stays within 512 tokens of a usual vocabulary.
const COMPLETION_MAX: usize = 1400;

/// One instruction pair.
#[derive(Debug, PartialEq)]
struct Pair {
    code: String,
    completion: String,
}

impl Pair {
    fn line(&self) -> String {
        let prompt = format!("Explain the Rust compiler error {}.", self.code);
        format!("{}\n", json!({ "prompt": prompt, "completion": self.completion }))
    }

    /// One in ten codes, chosen by a hash of the code: a code keeps its side whatever other codes a
    /// compiler knows.
    fn held_out(&self) -> bool {
        Sha256::digest(self.code.as_bytes())[0] % 10 == 0
    }
}

/// Writes the compiler's explanations of its errors as `prompt` and `completion` pairs:
/// `examples/rust-errors.jsonl` to train on and, beside it, `examples/rust-errors.valid.jsonl` to
/// measure the held-out loss on.
pub(crate) fn rust_errors() -> Result<()> {
    let mut pairs = Vec::new();
    for code in codes()? {
        if let Some(explanation) = explain(&code) {
            pairs.push(Pair { completion: tidy_up(&explanation), code });
        }
    }
    ensure!(!pairs.is_empty(), "`rustc --explain` explained none of the error codes");
    let folder = run::root().join("examples");
    let (valid, train): (Vec<&Pair>, Vec<&Pair>) = pairs.iter().partition(|pair| pair.held_out());
    write(&folder.join("rust-errors.jsonl"), &train)?;
    write(&folder.join("rust-errors.valid.jsonl"), &valid)
}

fn write(path: &Path, pairs: &[&Pair]) -> Result<()> {
    let text: String = pairs.iter().map(|pair| pair.line()).collect();
    files::write_atomically(path, text.as_bytes())?;
    let shown = path.strip_prefix(run::root()).unwrap_or(path).display();
    println!("wrote {shown}: {} pairs, {} bytes", pairs.len(), text.len());
    Ok(())
}

/// The codes to try, in ascending order: those with a page in the toolchain's documentation, or,
/// where that is not installed, the whole range.
fn codes() -> Result<Vec<String>> {
    let sysroot = run::output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let pages = PathBuf::from(sysroot.trim()).join("share/doc/rust/html/error_codes");
    let Ok(entries) = fs::read_dir(&pages) else {
        println!("the toolchain's documentation is not installed: trying E0001 to E0999");
        return Ok((1..1000).map(|number| format!("E{number:04}")).collect());
    };
    let mut codes = Vec::new();
    for entry in entries {
        let name = entry.with_context(|| pages.display().to_string())?.file_name();
        codes.extend(name.to_str().and_then(page_code).map(str::to_owned));
    }
    codes.sort();
    Ok(codes)
}

/// The error code whose page has this file name.
fn page_code(name: &str) -> Option<&str> {
    let code = name.strip_suffix(".html")?;
    let digits = code.strip_prefix('E')?;
    (digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_digit())).then_some(code)
}

/// What the compiler says about a code; `None` for a code without an explanation.
fn explain(code: &str) -> Option<String> {
    let output = Command::new("rustc").args(["--explain", code]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then_some(text)
}

/// Leaves out what is meant for the documentation's renderer (link targets, hidden lines of
/// examples) and whole blocks from the end until the text is within [`COMPLETION_MAX`].
fn tidy_up(explanation: &str) -> String {
    let mut kept = String::new();
    for block in blocks(explanation) {
        let grown = kept.chars().count() + block.chars().count() + 2;
        if grown > COMPLETION_MAX && !kept.is_empty() {
            break;
        }
        if !kept.is_empty() {
            kept.push_str("\n\n");
        }
        kept.push_str(&block);
    }
    // A lead-in such as "Erroneous code example:" explains nothing without what it leads to.
    if let Some((rest, last)) = kept.rsplit_once("\n\n")
        && last.ends_with(':')
    {
        kept.truncate(rest.len());
    }
    kept
}

/// Paragraphs and fenced examples, each without surrounding blank lines.
fn blocks(text: &str) -> Vec<String> {
    let mut blocks = vec![String::new()];
    let mut fenced = false;
    for line in text.lines() {
        let fence = line.starts_with("```");
        let hidden = fenced && (line == "#" || line.starts_with("# "));
        if hidden || (!fenced && is_link_target(line)) {
            continue;
        }
        if !fenced && (fence || line.is_empty()) {
            blocks.push(String::new());
        }
        let block = blocks.last_mut().expect("starts with one block");
        if fenced || !line.is_empty() {
            block.push_str(line.trim_end());
            block.push('\n');
        }
        if fence {
            fenced = !fenced;
            if !fenced {
                blocks.push(String::new());
            }
        }
    }
    let filled = blocks.iter().map(|block| block.trim_end()).filter(|block| !block.is_empty());
    filled
        .map(|b| if b.starts_with("```") { b.to_owned() } else { without_references(b) })
        .collect()
}

/// A line such as `[name]: https://…`.
fn is_link_target(line: &str) -> bool {
    line.starts_with('[') && line.contains("]: ")
}

/// `[text][name]` and `[text](address)` become `text`.
fn without_references(prose: &str) -> String {
    let mut out = String::new();
    let mut rest = prose;
    while let Some((before, text, after)) = next_link(rest) {
        out.push_str(before);
        out.push_str(text);
        rest = after;
    }
    out + rest
}

fn next_link(prose: &str) -> Option<(&str, &str, &str)> {
    for (join, end) in [("][", ']'), ("](", ')')] {
        let Some(middle) = prose.find(join) else { continue };
        let Some(open) = prose[..middle].rfind('[') else { continue };
        let tail = &prose[middle + join.len()..];
        let Some(close) = tail.find(end) else { continue };
        return Some((&prose[..open], &prose[open + 1..middle], &tail[close + 1..]));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_of_codes_count() {
        assert_eq!(page_code("E0382.html"), Some("E0382"));
        assert_eq!(page_code("error-index.html"), None);
        assert_eq!(page_code("E038.html"), None);
        assert_eq!(page_code("E0382.md"), None);
    }

    #[test]
    fn renderer_marks_are_left_out() {
        let raw = "Read [the\nbook][b] and [more](https://a.b/c) on it,\nthen go on.\n\n\
                   ```\n# hidden\n#\n#[derive(Clone)]\nstruct A;\n\nlet a = [1][0];\n```\n\n\
                   [b]: https://a.b/d\n";
        let want = "Read the\nbook and more on it,\nthen go on.\n\n\
                    ```\n#[derive(Clone)]\nstruct A;\n\nlet a = [1][0];\n```";
        assert_eq!(tidy_up(raw), want);
    }

    #[test]
    fn cuts_between_blocks_and_drops_a_dangling_lead_in() {
        let prose = "A sentence. ".repeat(60);
        let long =
            format!("{prose}\n\nErroneous code example:\n\n```\n{}\n```\n", "x;\n".repeat(400));
        assert_eq!(tidy_up(&long), prose.trim_end());
        let only = "word ".repeat(1000);
        assert_eq!(tidy_up(&only), only.trim_end(), "the first block is kept whatever its length");
    }

    #[test]
    fn pairs_are_json_lines_and_keep_their_side() {
        let pair = Pair { code: "E0001".into(), completion: "a \"b\"\n".into() };
        let want = "{\"prompt\":\"Explain the Rust compiler error E0001.\",\
                    \"completion\":\"a \\\"b\\\"\\n\"}\n";
        assert_eq!(pair.line(), want);
        let held = |n: usize| Pair { code: format!("E{n:04}"), completion: String::new() };
        let share = (1..1000).filter(|&n| held(n).held_out()).count();
        assert!((70..130).contains(&share), "{share} of 999 are held out");
    }
}
