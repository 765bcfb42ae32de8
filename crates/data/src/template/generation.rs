//! `{% generation %}` … `{% endgeneration %}`: the tags by which a template says which of its
//! output the assistant wrote.
//!
//! The engine does not know them. Each tag is rewritten to an empty block, which keeps the tag's
//! effect on the white space before it, followed by a variable, whose value is empty or a mark, and
//! whose closing keeps the effect on the white space after it. Rendering twice, once without and
//! once with marks, gives the text and the places.

use std::ops::Range;

/// Noncharacters of Unicode, set aside for a program's own use.
pub(super) const OPEN: &str = "\u{fdd0}";
pub(super) const CLOSE: &str = "\u{fdd1}";

/// The template without the tags, and whether it had any.
pub(super) fn rewrite(source: &str) -> (String, bool) {
    let mut result = String::with_capacity(source.len());
    let (mut rest, mut found) = (source, false);
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        result.push_str(before);
        if let Some((replacement, after)) = tag_at(tag) {
            result.push_str(&replacement);
            (rest, found) = (after, true);
        } else {
            result.push_str("{%");
            rest = &tag[2..];
        }
    }
    result.push_str(rest);
    (result, found)
}

/// What replaces the tag that `text` begins with, and what follows it.
fn tag_at(text: &str) -> Option<(String, &str)> {
    let body = text.strip_prefix("{%")?;
    let (before, body) = control(body);
    let body = body.trim_start();
    let (mark, body) = match body.strip_prefix("endgeneration") {
        Some(body) => ("__generation_close", body),
        None => ("__generation_open", body.strip_prefix("generation")?),
    };
    let (after, body) = control(body.trim_start());
    let mut rest = body.strip_prefix("%}")?;
    // A block swallows the line break after it, a variable does not.
    if after.is_empty() {
        rest = rest.strip_prefix("\r\n").or_else(|| rest.strip_prefix('\n')).unwrap_or(rest);
    }
    let after = if after == "-" { "-" } else { "" };
    Some((format!("{{%{before} if true %}}{{% endif %}}{{{{ {mark} {after}}}}}"), rest))
}

/// The white space control at the start of `text`, and what follows it.
fn control(text: &str) -> (&str, &str) {
    match text.as_bytes().first() {
        Some(b'-' | b'+') => text.split_at(1),
        _ => ("", text),
    }
}

/// The ranges of `plain` between an opening and a closing mark in `marked`; nothing when the two
/// texts differ in anything but marks, or the marks do not pair up.
pub(super) fn spans(marked: &str, plain: &str) -> Option<Vec<Range<usize>>> {
    let (mut spans, mut open, mut at) = (Vec::new(), None, 0);
    let is_mark = |c: char| OPEN.contains(c) || CLOSE.contains(c);
    let mut rest = marked;
    while let Some(next) = rest.find(is_mark) {
        let (text, mark) = rest.split_at(next);
        plain.get(at..)?.strip_prefix(text)?;
        at += text.len();
        rest = match open.take() {
            None => {
                open = Some(at);
                mark.strip_prefix(OPEN)?
            }
            Some(start) => {
                spans.push(start..at);
                mark.strip_prefix(CLOSE)?
            }
        };
    }
    (open.is_none() && plain.get(at..)? == rest).then_some(spans)
}
