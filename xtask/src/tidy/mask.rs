//! Separates Rust source into code and comments, so that checks do not trip over text in strings.

/// A source file in two layers of the same shape: every character is in one of them, where it was,
/// and a space in the other. The contents of string and character literals are in neither.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Masked {
    pub(super) code: String,
    pub(super) comments: String,
}

/// Splits `source` into its layers.
pub(super) fn mask(source: &str) -> Masked {
    let mut scanner =
        Scanner { rest: source, masked: Masked { code: String::new(), comments: String::new() } };
    while !scanner.rest.is_empty() {
        scanner.step();
    }
    scanner.masked
}

#[derive(Clone, Copy)]
enum Layer {
    Code,
    Comment,
    Neither,
}

struct Scanner<'a> {
    rest: &'a str,
    masked: Masked,
}

impl Scanner<'_> {
    fn step(&mut self) {
        let rest = self.rest;
        if rest.starts_with("//") {
            self.take(rest.find('\n').unwrap_or(rest.len()), Layer::Comment);
        } else if rest.starts_with("/*") {
            self.take(block_comment(rest), Layer::Comment);
        } else if let Some(prefix) = self.string_prefix() {
            self.take(prefix, Layer::Code);
            let hashes = self.rest.bytes().take_while(|&b| b == b'#').count();
            let raw = rest[..prefix].ends_with('r');
            self.take(hashes + 1, Layer::Code);
            let (body, close) = string_body(self.rest, raw.then_some(hashes));
            self.take(body, Layer::Neither);
            self.take(close, Layer::Code);
        } else if let Some(literal) = char_literal(rest) {
            self.take(1, Layer::Code);
            self.take(literal - 2, Layer::Neither);
            self.take(1, Layer::Code);
        } else {
            self.take(rest.chars().next().map_or(0, char::len_utf8), Layer::Code);
        }
    }

    /// Moves `bytes` of the rest into one layer, spaces into the other, line ends into both.
    fn take(&mut self, bytes: usize, layer: Layer) {
        let (taken, rest) = self.rest.split_at(bytes);
        self.rest = rest;
        for c in taken.chars() {
            let in_code = matches!(layer, Layer::Code) || c == '\n';
            let in_comments = matches!(layer, Layer::Comment) || c == '\n';
            self.masked.code.push(if in_code { c } else { ' ' });
            self.masked.comments.push(if in_comments { c } else { ' ' });
        }
    }

    /// Length of the letters before a string that begins here; `None` where none begins.
    fn string_prefix(&self) -> Option<usize> {
        // Within a word, an `r` or a `b` is one of its letters, and only a quote begins a string.
        let inside_a_word = self.masked.code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        string_prefix(self.rest).filter(|&letters| letters == 0 || !inside_a_word)
    }
}

/// Length of a block comment, nested ones included.
fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

/// Length of what stands before a string's hashes and quote: nothing, `r`, `b`, `br`, `c`, `cr`.
fn string_prefix(text: &str) -> Option<usize> {
    for prefix in ["br", "cr", "r"] {
        if let Some(after) = text.strip_prefix(prefix)
            && after.trim_start_matches('#').starts_with('"')
        {
            return Some(prefix.len());
        }
    }
    ["b", "c", ""]
        .into_iter()
        .find(|prefix| text.strip_prefix(prefix).is_some_and(|after| after.starts_with('"')))
        .map(str::len)
}

/// Lengths of a string's contents and of what closes it; `raw` is the number of hashes.
fn string_body(text: &str, raw: Option<usize>) -> (usize, usize) {
    if let Some(hashes) = raw {
        let close = format!("\"{}", "#".repeat(hashes));
        return text.find(&close).map_or((text.len(), 0), |body| (body, close.len()));
    }
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return (at, 1),
            _ => {}
        }
    }
    (text.len(), 0)
}

/// Length of a character literal with its quotes; `None` for a lifetime.
fn char_literal(text: &str) -> Option<usize> {
    let body = text.strip_prefix('\'')?;
    let first = body.chars().next()?;
    let after = if first == '\\' {
        let escaped = body[1..].chars().next()?.len_utf8();
        1 + escaped + body.get(1 + escaped..)?.find('\'')?
    } else {
        first.len_utf8()
    };
    body.get(after..)?.starts_with('\'').then_some(after + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(source: &str) -> String {
        mask(source).code
    }

    #[test]
    fn comments_leave_the_code() {
        let masked = mask("a // unsafe\nb /* x /* y */ z */ c");
        assert_eq!(masked.code, "a          \nb                   c");
        assert_eq!(masked.comments, "  // unsafe\n  /* x /* y */ z */  ");
    }

    #[test]
    fn strings_are_in_neither_layer() {
        assert_eq!(code(r#"f("a // b", x)"#), r#"f("      ", x)"#);
        assert_eq!(code(r#"f("a\"b", x)"#), r#"f("    ", x)"#);
        assert_eq!(code("r#\"a\"b\"# + c"), "r#\"   \"# + c");
        assert_eq!(code("br\"\\\" + c"), "br\" \" + c");
        assert_eq!(code("b\"//\" + c"), "b\"  \" + c");
        assert_eq!(code("for\"x\""), "for\" \"");
    }

    #[test]
    fn characters_and_lifetimes() {
        assert_eq!(code("'\"' + '{' + 'a: \"x\""), "' ' + ' ' + 'a: \" \"");
        assert_eq!(code(r"'\'' + '\u{7f}' {"), r"'  ' + '      ' {");
        assert_eq!(code("&'a str, b'{' }"), "&'a str, b' ' }");
        assert_eq!(code("<'a, 'b>"), "<'a, 'b>");
        assert_eq!(code("'é' {"), "' ' {");
    }

    #[test]
    fn the_layers_keep_lines_and_columns() {
        let source = "let s = \"one\ntwo\"; // end\n/* a\nb */ fn";
        let masked = mask(source);
        assert_eq!(masked.code.lines().count(), source.lines().count());
        assert_eq!(masked.code.lines().last(), Some("     fn"));
    }

    #[test]
    fn unfinished_literals_end_with_the_text() {
        for source in ["\"abc", "r#\"abc\"", "/* abc", "'", "'\\", "b\"\\"] {
            assert_eq!(code(source).chars().count(), source.chars().count(), "{source}");
        }
    }
}
