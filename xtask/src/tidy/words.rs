//! Words that no tracked text file may contain.

use super::Finding;

/// Marks of unfinished work, as whole words. In pieces, so that this file does not contain them.
const MARKS: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

/// Hosts of package registries and model hubs: packages are named, never addressed.
const HOSTS: [&str; 8] = [
    concat!("crates", ".io"),
    concat!("pypi", ".org"),
    concat!("python", "hosted.org"),
    concat!("npmjs", ".org"),
    concat!("npmjs", ".com"),
    concat!("deb.debian", ".org"),
    concat!("static.rust-lang", ".org"),
    concat!("huggingface", ".co"),
];

/// Beginnings of absolute paths of some machine.
const PATHS: [&str; 4] =
    [concat!("/wor", "k/"), concat!("/tm", "p/"), concat!("/ro", "ot/"), concat!("/hom", "e/")];

/// Checks every line; `path` is relative to the root. Cargo writes the lock file, so it is exempt.
pub(super) fn check(path: &str, text: &str) -> Vec<Finding> {
    if path.ends_with("Cargo.lock") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let mut report = |what: &str, found: &str| {
            findings.push(Finding::error(path, index + 1, format!("{what} `{found}`")));
        };
        MARKS.iter().filter(|mark| has_word(line, mark)).for_each(|m| report("unfinished:", m));
        HOSTS.iter().filter(|host| line.contains(*host)).for_each(|h| report("host name", h));
        PATHS.iter().filter(|start| has_path(line, start)).for_each(|p| report("machine path", p));
    }
    findings
}

fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(part) && !line[at + word.len()..].starts_with(part))
}

/// An absolute path begins where no relative one goes on: `a/tmp/b` is none.
fn has_path(line: &str, start: &str) -> bool {
    let goes_on = |c: char| c.is_alphanumeric() || "_-.~}>".contains(c);
    line.match_indices(start).any(|(at, _)| !line[..at].ends_with(goes_on))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(text: &str) -> Vec<String> {
        check("a.md", text).into_iter().map(|finding| finding.says).collect()
    }

    #[test]
    fn marks_are_whole_words() {
        assert_eq!(
            says(&format!("ok\n// {}: x", MARKS[0])),
            [format!("unfinished: `{}`", MARKS[0])]
        );
        assert_eq!(says(&format!("A{0} {0}S _{0}", MARKS[2])), [""; 0]);
        assert_eq!(says("todo list"), [""; 0]);
    }

    #[test]
    fn hosts_are_found_anywhere() {
        let line = format!("see https://www.{}/x", HOSTS[0]);
        assert_eq!(says(&line), [format!("host name `{}`", HOSTS[0])]);
        assert!(check("fuzz/Cargo.lock", &line).is_empty());
    }

    #[test]
    fn paths_are_absolute() {
        assert_eq!(says(&format!("cp {}a .", PATHS[1])), [format!("machine path `{}`", PATHS[1])]);
        assert_eq!(says(&format!("\"{}x\"", PATHS[2])).len(), 1);
        assert_eq!(says(&format!("target{}x", PATHS[1])), [""; 0]);
        assert_eq!(says(&format!("<dir>{}x", PATHS[0])), [""; 0]);
    }
}
