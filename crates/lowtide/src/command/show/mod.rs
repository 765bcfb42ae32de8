//! What a job reports, as text for people: pure functions from reports to lines.

pub(crate) mod bench;
pub(crate) mod conversion;
pub(crate) mod data;
pub(crate) mod evaluation;
pub(crate) mod merge;
pub(crate) mod methods;
pub(crate) mod number;
pub(crate) mod plan;
pub(crate) mod sensitivity;
pub(crate) mod step;
pub(crate) mod summary;
pub(crate) mod tradeoff;
pub(crate) mod watch;

use std::fmt::Write;

/// A titled list of labelled facts, two columns wide.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    rows: Vec<(String, String)>,
}

impl Facts {
    pub(crate) fn add(&mut self, label: &str, fact: impl Into<String>) -> &mut Self {
        self.rows.push((label.into(), fact.into()));
        self
    }

    pub(crate) fn under(&self, title: &str) -> String {
        let mut text = format!("{title}\n");
        for (label, fact) in &self.rows {
            line(&mut text, &format!("  {label:<14}{fact}"));
        }
        text
    }
}

/// A titled table of names, right-aligned amounts and remarks.
pub(crate) fn amounts(title: &str, rows: &[(&str, String, String)]) -> String {
    let longest = rows.iter().map(|(name, ..)| name.chars().count()).max().unwrap_or(0);
    let names = (longest + 2).max(14);
    let wide = rows.iter().map(|(_, amount, _)| amount.chars().count()).max().unwrap_or(0);
    let mut text = format!("{title}\n");
    for (name, amount, remark) in rows {
        line(&mut text, &format!("  {name:<names$}{amount:>wide$}  {remark}"));
    }
    text
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{}", line.trim_end()).expect("a string takes any text");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [
            ("adapter", "9.30 MiB".to_owned(), String::new()),
            ("in all", "165.25 MiB".to_owned(), "of 200.00 MiB".to_owned()),
        ];
        let expected = "\
Held
  adapter         9.30 MiB
  in all        165.25 MiB  of 200.00 MiB
";
        assert_eq!(amounts("Held", &rows), expected);
        let text = Facts::default().add("base", "m.gguf").add("adapter", "lora").under("Plan");
        assert_eq!(text, "Plan\n  base          m.gguf\n  adapter       lora\n");
    }
}
