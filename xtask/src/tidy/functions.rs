//! Where the functions of a source file begin and how long they are.

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Function<'a> {
    pub(super) name: &'a str,
    /// Line of the name, counted from 1.
    pub(super) line: usize,
    /// Lines from the name to the closing brace.
    pub(super) lines: usize,
}

/// The functions in masked code, in order of their beginning; nested ones are listed as well.
pub(super) fn functions(code: &str) -> Vec<Function<'_>> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let bounded = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let Some(name) = identifier(code[at + 3..].trim_start()).filter(|_| bounded) else {
            continue;
        };
        let Some(end) = body_end(&code[at..]) else { continue };
        let line = 1 + line_ends(&code[..at]);
        found.push(Function { name, line, lines: 1 + line_ends(&code[at..at + end]) });
    }
    found
}

fn identifier(text: &str) -> Option<&str> {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    (end > 0).then(|| &text[..end])
}

/// Position of the brace that closes the body; `None` for a declaration without one.
fn body_end(code: &str) -> Option<usize> {
    let mut braces = 0;
    let mut brackets = 0;
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets -= 1,
            '{' => braces += 1,
            '}' => {
                braces -= 1;
                if braces == 0 && brackets == 0 {
                    return Some(at);
                }
            }
            ';' if braces == 0 && brackets == 0 => return None,
            _ => {}
        }
    }
    None
}

fn line_ends(text: &str) -> usize {
    text.bytes().filter(|&b| b == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_bodies_and_skips_declarations_and_pointers() {
        let code =
            "trait T { fn a(&self, x: [u8; 2]);\n fn b() {\n {}\n }\n}\nfn c(f: fn (u8)) {}\n";
        let names: Vec<_> = functions(code).iter().map(|f| (f.name, f.line, f.lines)).collect();
        assert_eq!(names, [("b", 2, 3), ("c", 6, 1)]);
    }

    #[test]
    fn nested_functions_are_listed() {
        let code = "fn outer() {\n    fn inner() {\n    }\n}\n";
        let lines: Vec<_> = functions(code).iter().map(|f| f.lines).collect();
        assert_eq!(lines, [4, 2]);
    }
}
