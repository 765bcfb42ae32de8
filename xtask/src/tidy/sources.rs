//! What holds for every Rust source file: its size, its module doc, where `unsafe` may be, and who
//! may print.

use super::Finding;
use super::functions::functions;
use super::mask::{Masked, mask};

/// The crate whose job is to walk raw memory with intrinsics.
const KERNELS: &str = "crates/kernels/";

/// Files and folders that may contain `unsafe`; everything else forbids it.
const UNSAFE: [&str; 6] = [
    KERNELS,
    "crates/memory/src/heap.rs",
    "crates/formats/src/fault.rs",
    "crates/formats/src/map.rs",
    "crates/tensor/src/view.rs",
    "crates/testkit/src/alloc.rs",
];

/// Folders whose programs talk to a person.
const PRINTING: [&str; 3] = ["crates/lowtide/", "examples/", "xtask/"];

const FILE_LINES_MAX: usize = 800;
const FILE_LINES_WIDE: usize = 500;
const FUNCTION_LINES_WIDE: usize = 70;
const LINE_WIDTH_MAX: usize = 100;

/// All checks of one file; `path` is relative to the root.
pub(super) fn check(path: &str, text: &str) -> Vec<Finding> {
    let masked = mask(text);
    let mut findings = sizes(path, text, &masked);
    findings.extend(module_doc(path, text));
    findings.extend(unsafe_code(path, &masked));
    findings.extend(unsafe_lint(path, &masked));
    findings.extend(printing(path, &masked));
    findings
}

fn sizes(path: &str, text: &str, masked: &Masked) -> Vec<Finding> {
    let mut findings = Vec::new();
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        let says = format!("{lines} lines; at most {FILE_LINES_MAX} are allowed");
        findings.push(Finding::error(path, None, says));
    } else if lines > FILE_LINES_WIDE {
        findings.push(Finding::warning(path, None, format!("{lines} lines; is it one idea?")));
    }
    for (index, line) in text.lines().enumerate() {
        let width = line.chars().count();
        if width > LINE_WIDTH_MAX {
            let says = format!("{width} columns; at most {LINE_WIDTH_MAX} are allowed");
            findings.push(Finding::error(path, index + 1, says));
        }
    }
    for function in functions(&masked.code) {
        if function.lines > FUNCTION_LINES_WIDE {
            let says = format!("`fn {}` has {} lines", function.name, function.lines);
            findings.push(Finding::warning(path, function.line, says));
        }
    }
    findings
}

fn module_doc(path: &str, text: &str) -> Option<Finding> {
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let documented = first.starts_with("//!") && first.len() > "//! ".len();
    (!documented).then(|| Finding::error(path, 1, "begins without a `//!` module doc"))
}

fn unsafe_code(path: &str, masked: &Masked) -> Vec<Finding> {
    let comments: Vec<&str> = masked.comments.lines().collect();
    let code: Vec<&str> = masked.code.lines().collect();
    let mut findings = Vec::new();
    for (index, line) in code.iter().enumerate() {
        let Some(after) = word(line, "unsafe") else { continue };
        if !UNSAFE.iter().any(|allowed| path.starts_with(allowed)) {
            findings.push(Finding::error(path, index + 1, "`unsafe` is not allowed in this file"));
        }
        let next = after.trim_start();
        let proves = next.is_empty() || next.starts_with('{') || next.starts_with("impl");
        if proves && !has_safety_comment(&code, &comments, index) {
            findings.push(Finding::error(path, index + 1, "`unsafe` without a `SAFETY:` comment"));
        }
    }
    findings
}

/// Whether a `SAFETY:` comment stands on the line or in the comments and attributes right above
/// it, where the statement that the line belongs to may begin a few lines earlier.
fn has_safety_comment(code: &[&str], comments: &[&str], index: usize) -> bool {
    if comments[index].contains("SAFETY:") {
        return true;
    }
    for above in (0..index).rev() {
        if comments[above].contains("SAFETY:") {
            return true;
        }
        let line = code[above].trim();
        let ends_a_statement = line.ends_with([';', '{', '}']);
        if ends_a_statement || (line.is_empty() && comments[above].trim().is_empty()) {
            return false;
        }
    }
    false
}

/// Every crate root forbids `unsafe`; a crate with an allowed file denies it, so that the one
/// module can allow it with a reason. Only a crate allowed as a whole allows it at its root.
fn unsafe_lint(path: &str, masked: &Masked) -> Option<Finding> {
    let folder = path.strip_suffix("src/lib.rs").or_else(|| path.strip_suffix("src/main.rs"))?;
    if folder == KERNELS {
        return None;
    }
    let has_unsafe = UNSAFE.iter().any(|allowed| allowed.starts_with(folder));
    let forbids = masked.code.contains("#![forbid(unsafe_code)]");
    let denies = masked.code.contains("#![deny(unsafe_code)]");
    if has_unsafe && !denies && !forbids {
        return Some(Finding::error(path, None, "the crate root lacks `#![deny(unsafe_code)]`"));
    }
    (!has_unsafe && !forbids)
        .then(|| Finding::error(path, None, "the crate root lacks `#![forbid(unsafe_code)]`"))
}

fn printing(path: &str, masked: &Masked) -> Vec<Finding> {
    if PRINTING.iter().any(|allowed| path.starts_with(allowed)) {
        return Vec::new();
    }
    let prints = |line: &str| {
        ["println", "eprintln", "print", "eprint", "dbg"]
            .iter()
            .any(|name| word(line, name).is_some_and(|after| after.starts_with('!')))
            || line.contains("clippy::print_std")
    };
    let lines = masked.code.lines().enumerate().filter(|(_, line)| prints(line));
    lines.map(|(index, _)| Finding::error(path, index + 1, "prints; only a program may")).collect()
}

/// What follows the first occurrence of `wanted` as a whole word.
fn word<'a>(line: &'a str, wanted: &str) -> Option<&'a str> {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(wanted).find_map(|(at, _)| {
        let after = &line[at + wanted.len()..];
        (!line[..at].ends_with(part) && !after.starts_with(part)).then_some(after)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: &str = "crates/formats/src/map.rs";
    const ROOT: &str = "crates/optim/src/lib.rs";

    fn says(path: &str, text: &str) -> Vec<String> {
        check(path, text).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_clean_file_has_no_findings() {
        assert_eq!(says("crates/optim/src/a.rs", "//! Doc.\n\nfn a() {}\n"), [""; 0]);
        assert_eq!(says(ROOT, "//! Doc.\n#![forbid(unsafe_code)]\n"), [""; 0]);
    }

    #[test]
    fn sizes_are_bounded() {
        let long = format!("//! Doc.\n{}", "a\n".repeat(FILE_LINES_MAX));
        let want = "error: a.rs: 801 lines; at most 800 are allowed";
        assert_eq!(says("a.rs", &long), [want]);
        let wide = format!("//! Doc.\n{}", "a\n".repeat(FILE_LINES_WIDE));
        assert_eq!(says("a.rs", &wide), ["warning: a.rs: 501 lines; is it one idea?"]);
        let line = format!("//! Doc.\n// {}\n", "é".repeat(98));
        assert_eq!(says("a.rs", &line), ["error: a.rs:2: 101 columns; at most 100 are allowed"]);
        let function = format!("//! Doc.\nfn f() {{\n{}}}\n", "a;\n".repeat(69));
        assert_eq!(says("a.rs", &function), ["warning: a.rs:2: `fn f` has 71 lines"]);
    }

    #[test]
    fn a_module_doc_comes_first() {
        let want = "error: a.rs:1: begins without a `//!` module doc";
        assert_eq!(says("a.rs", "use x;\n//! Doc.\n"), [want]);
        assert_eq!(says("a.rs", "//!\n"), [want]);
        assert_eq!(says("a.rs", ""), [want]);
    }

    #[test]
    fn unsafe_is_only_where_it_is_allowed() {
        let text = "//! Doc.\n// SAFETY: proven.\nlet a = unsafe { b() };\n";
        assert_eq!(says(MAP, text), [""; 0]);
        let want = "error: crates/optim/src/a.rs:3: `unsafe` is not allowed in this file";
        assert_eq!(says("crates/optim/src/a.rs", text), [want]);
        let mentioned = "//! Doc: unsafe.\nlet unsafe_code = \"unsafe { }\";\n";
        assert_eq!(says("crates/optim/src/a.rs", mentioned), [""; 0]);
    }

    #[test]
    fn every_unsafe_is_proven() {
        let want = "error: crates/formats/src/map.rs:3: `unsafe` without a `SAFETY:` comment";
        let far = "//! Doc.\n// SAFETY: of another.\nb(); unsafe { c() };\n";
        assert_eq!(says(MAP, far), [""; 0], "a comment right above counts");
        let none = "//! Doc.\na();\nlet b = unsafe { c() };\n";
        assert_eq!(says(MAP, none), [want]);
        let cut = "//! Doc.\n\nunsafe impl Send for A {}\n";
        assert_eq!(says(MAP, cut), [want]);
        let wrapped = "//! Doc.\n// SAFETY: proven,\n// at length.\nlet b =\n    unsafe { c() };\n";
        assert_eq!(says(MAP, wrapped), [""; 0]);
        let declared = "//! Doc.\n/// # Safety\n/// Never.\npub unsafe fn f() {}\n";
        assert_eq!(says(MAP, declared), [""; 0]);
    }

    #[test]
    fn crate_roots_forbid_or_deny() {
        let want = "error: crates/optim/src/lib.rs: the crate root lacks `#![forbid(unsafe_code)]`";
        assert_eq!(says(ROOT, "//! Doc: #![forbid(unsafe_code)].\n"), [want]);
        let formats = "crates/formats/src/lib.rs";
        assert_eq!(says(formats, "//! Doc.\n#![deny(unsafe_code)]\n"), [""; 0]);
        let want = "error: crates/formats/src/lib.rs: the crate root lacks `#![deny(unsafe_code)]`";
        assert_eq!(says(formats, "//! Doc.\n"), [want]);
    }

    #[test]
    fn only_programs_print() {
        let text = "//! Doc: println!.\nprintln!(\"x\");\n";
        let want = "error: crates/optim/src/a.rs:2: prints; only a program may";
        assert_eq!(says("crates/optim/src/a.rs", text), [want]);
        assert_eq!(says("xtask/src/a.rs", text), [""; 0]);
        let allowed = "//! Doc.\n#[allow(clippy::print_stderr, reason = \"x\")]\n";
        assert_eq!(says("crates/optim/src/a.rs", allowed), [want]);
    }
}
