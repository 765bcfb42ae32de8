//! Points over a pair of axes, each with a short label beside it.

use maud::{Markup, html};

use super::axis::Axis;
use super::chart::{Frame, Words, short};

/// A point of a scatter.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    /// Class of its colour.
    pub colour: String,
    /// What stands beside it; a few letters.
    pub label: String,
    /// What it is, when it is pointed at.
    pub tip: String,
    /// Where it lies on the horizontal and on the vertical axis.
    pub at: (f64, f64),
}

/// Width of a letter of a label, and its height.
const LETTER: (f64, f64) = (6.0, 10.0);

/// Where a label may stand, from its point: right, left, above, below, and farther right.
const PLACES: [(f64, f64); 6] =
    [(6.0, 4.0), (-6.0, 4.0), (0.0, -7.0), (0.0, 14.0), (10.0, -6.0), (10.0, 14.0)];

/// Points with labels that do not cover each other where there is room. Points that are no numbers
/// are left out.
#[must_use]
pub fn scatter(words: &Words, marks: &[Mark]) -> Markup {
    let finite = |mark: &&Mark| mark.at.0.is_finite() && mark.at.1.is_finite();
    let marks: Vec<&Mark> = marks.iter().filter(finite).collect();
    let across = Axis::from_zero(marks.iter().map(|mark| mark.at.0), 5);
    let up = Axis::around(marks.iter().map(|mark| mark.at.1), 5);
    let frame = Frame { across: &across, up: &up };
    let points: Vec<_> = marks.iter().map(|mark| frame.point(mark.at.0, mark.at.1)).collect();
    let labels = labels(&marks, &points);
    frame.around(
        words,
        &html! {
            @for ((mark, (x, y)), (left, base)) in marks.iter().zip(&points).zip(labels) {
                g class={ "series " (mark.colour) } {
                    circle class="dot" cx=(short(*x)) cy=(short(*y)) r="4" { title { (mark.tip) } }
                }
                text class="label" x=(short(left)) y=(short(base)) { (mark.label) }
            }
        },
    )
}

/// Left end and base line of each label.
fn labels(marks: &[&Mark], points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut taken: Vec<(f64, f64, f64)> = Vec::new();
    for (mark, (x, y)) in marks.iter().zip(points) {
        let wide = LETTER.0 * mark.label.chars().count() as f64;
        let place = |(right, down): (f64, f64)| {
            let left = match right {
                right if right > 0.0 => x + right,
                right if right < 0.0 => x + right - wide,
                _ => x - wide / 2.0,
            };
            (left, y + down, wide)
        };
        let free = |(left, base, wide): &(f64, f64, f64)| {
            let over = |a: f64, a_end: f64, b: f64, b_end: f64| a < b_end && b < a_end;
            let label = |other: &(f64, f64, f64)| {
                over(*left, left + wide, other.0, other.0 + other.2)
                    && over(*base - LETTER.1, *base, other.1 - LETTER.1, other.1)
            };
            let dot = |(x, y): &(f64, f64)| {
                over(*left, left + wide, x - 4.0, x + 4.0)
                    && over(*base - LETTER.1, *base, y - 4.0, y + 4.0)
            };
            !taken.iter().any(label) && !points.iter().any(dot)
        };
        let chosen = PLACES.map(place);
        taken.push(*chosen.iter().find(|label| free(label)).unwrap_or(&chosen[0]));
    }
    taken.into_iter().map(|(left, base, _)| (left, base)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_lie_where_they_belong_and_labels_keep_apart() {
        let mark = |label: &str, x, y| Mark {
            colour: "r1".into(),
            label: label.into(),
            tip: format!("<{label}>"),
            at: (x, y),
        };
        let marks = [
            mark("1", 10.0, 2.0),
            mark("2", 10.0, 2.0),
            mark("3", f64::NAN, 1.0),
            mark("4", 5.0, 1.0),
        ];
        let (title, describes) = ("a".to_owned(), "b".to_owned());
        let words = Words { id: "x".into(), title, describes, across: "MiB".into() };
        let text = scatter(&words, &marks).into_string();
        let doc = roxmltree::Document::parse(&text).unwrap();
        let with = |class: &'static str| {
            doc.descendants().filter(move |node| node.attribute("class") == Some(class))
        };
        let dots: Vec<_> = with("dot").map(|dot| dot.attribute("cx").unwrap()).collect();
        assert_eq!(dots, ["406", "406", "230"]);
        let labels: Vec<_> = with("label")
            .map(|text| (text.text().unwrap(), text.attribute("x").unwrap()))
            .collect();
        assert_eq!(labels, [("1", "412"), ("2", "394"), ("4", "236")]);
        assert!(text.contains("<title>&lt;1&gt;</title>"), "{text}");
    }
}
