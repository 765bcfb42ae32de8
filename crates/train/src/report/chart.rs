//! Charts as inline SVG. They scale with the page, take their colours from its style sheet, and say
//! in words what they show.

use std::fmt::Write;

use maud::{Markup, html};

use super::axis::Axis;

/// The drawing's own units, chosen so that a chart as wide as a phone has text of readable size.
const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 54.0;
const RIGHT: f64 = WIDTH - 14.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = HEIGHT - 38.0;

/// Most points that get a dot of their own.
const DOTS_MAX: usize = 60;

/// What a chart is called, in its page and for those who cannot see it.
#[derive(Clone, Debug)]
pub struct Words {
    /// Unique in the page.
    pub id: String,
    /// What is shown.
    pub title: String,
    /// The same in a sentence with numbers.
    pub describes: String,
    /// Under the horizontal axis.
    pub across: String,
}

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drawn {
    /// A line, with dots where there are few points.
    Line,
    /// A pale line behind others.
    Faint,
    /// Marks, joined by a broken line.
    Marks,
    /// A broken line by itself.
    Rule,
}

/// Points of one colour.
#[derive(Clone, Debug)]
pub(super) struct Series {
    /// Class of its colour.
    pub(super) colour: String,
    pub(super) drawn: Drawn,
    /// Points in order; where a value is not finite the line is broken.
    pub(super) points: Vec<(f64, f64)>,
    /// What a point is, when it is pointed at.
    pub(super) tip: fn(f64, f64) -> String,
}

/// Lines over a pair of axes.
pub(super) fn lines(words: &Words, across: &Axis, up: &Axis, series: &[Series]) -> Markup {
    let frame = Frame { across, up };
    frame.around(
        words,
        &html! {
            @for one in series {
                g class={ "series " (one.colour) } {
                    path class=(one.class()) d=(frame.path(&one.points)) {}
                    @if one.dotted() {
                        @for &(x, y) in one.points.iter().filter(|(x, y)| frame.shows(*x, *y)) {
                            (frame.dot(one, x, y))
                        }
                    }
                }
            }
        },
    )
}

impl Series {
    fn dotted(&self) -> bool {
        matches!(self.drawn, Drawn::Line | Drawn::Marks) && self.points.len() <= DOTS_MAX
    }

    fn class(&self) -> &'static str {
        match self.drawn {
            Drawn::Line => "line",
            Drawn::Faint => "line faint",
            Drawn::Marks | Drawn::Rule => "line broken",
        }
    }
}

/// One stretch of a stack: what it is, and what lies on what.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) tip: String,
    /// One value a layer, lowest first.
    pub(super) values: Vec<f64>,
}

/// A level line across a stack.
#[derive(Clone, Debug)]
pub(super) struct Level {
    /// Class of its colour.
    pub(super) colour: &'static str,
    pub(super) at: f64,
}

/// Columns side by side, each as wide as the others, layered in colours, with level lines.
/// `phases` are named ranges of columns.
pub(super) fn stack(
    words: &Words,
    up: &Axis,
    colours: &[String],
    columns: &[Column],
    phases: &[(String, usize)],
    levels: &[Level],
) -> Markup {
    let across = Axis { low: 0.0, high: columns.len().max(1) as f64, ticks: Vec::new() };
    let frame = Frame { across: &across, up };
    let mut starts = Vec::new();
    let mut at = 0;
    for (name, count) in phases {
        starts.push((name, at as f64, (at + count) as f64));
        at += count;
    }
    frame.around(words, &html! {
        @for (layer, colour) in colours.iter().enumerate() {
            path class={ "layer " (colour) } d=(frame.layer(columns, layer)) {}
        }
        @for (name, start, end) in starts {
            @if start > 0.0 {
                line class="phase" x1=(frame.x(start)) x2=(frame.x(start)) y1=(TOP) y2=(BOTTOM) {}
            }
            @if frame.wide(end - start) > 5.6 * name.len() as f64 {
                text class="label" x=(frame.x((start + end) / 2.0)) y=(BOTTOM + 15.0)
                    text-anchor="middle" { (name) }
            }
        }
        @for level in levels {
            line class={ "level " (level.colour) } x1=(LEFT) x2=(RIGHT)
                y1=(frame.y(level.at)) y2=(frame.y(level.at)) {}
        }
        @for (index, column) in columns.iter().enumerate() {
            rect class="touch" x=(frame.x(index as f64)) y=(TOP)
                width=(short(frame.wide(1.0))) height=(BOTTOM - TOP) { title { (column.tip) } }
        }
    })
}

/// A bar of parts laid end to end, `full` wide in all; each part a class and a value.
#[must_use]
pub fn bar(words: &Words, full: f64, parts: &[(String, f64)]) -> Markup {
    let mut at = 0.0;
    let parts = parts.iter().map(|(colour, value)| {
        let start = at;
        at += WIDTH * value / full.max(f64::MIN_POSITIVE);
        (colour, start, at - start)
    });
    html! {
        svg viewBox={ "0 0 " (WIDTH) " 14" } role="img" class="bar"
            preserveAspectRatio="none" aria-label=(words.describes) {
            title { (words.title) }
            @for (colour, start, wide) in parts {
                rect class={ "layer " (colour) } x=(short(start)) y="0" height="14"
                    width=(short(wide)) {}
            }
        }
    }
}

/// The area between a pair of axes.
pub(super) struct Frame<'a> {
    pub(super) across: &'a Axis,
    pub(super) up: &'a Axis,
}

impl Frame<'_> {
    pub(super) fn around(&self, words: &Words, inside: &Markup) -> Markup {
        let Words { id, title, describes, across } = words;
        html! {
            svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img"
                aria-labelledby={ (id) "-title " (id) "-desc" } {
                title id={ (id) "-title" } { (title) }
                desc id={ (id) "-desc" } { (describes) }
                @for (value, label) in &self.up.ticks {
                    line class="grid" x1=(LEFT) x2=(RIGHT)
                        y1=(self.y(*value)) y2=(self.y(*value)) {}
                    text class="tick" x=(LEFT - 7.0) y=(short(self.height(*value) + 4.0))
                        text-anchor="end" { (label) }
                }
                @for (value, label) in &self.across.ticks {
                    line class="notch" x1=(self.x(*value)) x2=(self.x(*value))
                        y1=(BOTTOM) y2=(BOTTOM + 4.0) {}
                    text class="tick" x=(self.x(*value)) y=(BOTTOM + 16.0)
                        text-anchor="middle" { (label) }
                }
                (inside)
                line class="axis" x1=(LEFT) x2=(RIGHT) y1=(BOTTOM) y2=(BOTTOM) {}
                text class="name" x=((LEFT + RIGHT) / 2.0) y=(HEIGHT - 5.0)
                    text-anchor="middle" { (across) }
            }
        }
    }

    fn dot(&self, series: &Series, x: f64, y: f64) -> Markup {
        let (cx, cy) = (self.x(x), self.y(y));
        let radius = if series.drawn == Drawn::Marks { "4.5" } else { "2.5" };
        html! {
            circle class="dot" cx=(cx) cy=(cy) r=(radius) { title { ((series.tip)(x, y)) } }
        }
    }

    /// Where a point is drawn.
    pub(super) fn point(&self, x: f64, y: f64) -> (f64, f64) {
        (LEFT + self.wide(x - self.across.low), self.height(y))
    }

    fn x(&self, value: f64) -> String {
        short(LEFT + self.wide(value - self.across.low))
    }

    fn y(&self, value: f64) -> String {
        short(self.height(value))
    }

    fn wide(&self, span: f64) -> f64 {
        (RIGHT - LEFT) * span / (self.across.high - self.across.low)
    }

    fn height(&self, value: f64) -> f64 {
        BOTTOM - (BOTTOM - TOP) * self.up.place(value)
    }

    /// Whether a point is a number and near enough to be drawn.
    fn shows(&self, x: f64, y: f64) -> bool {
        let near = |place: f64| place.abs() < 1e3;
        near(self.across.place(x)) && near(self.up.place(y))
    }

    /// Straight lines from point to point, broken where one is missing.
    fn path(&self, points: &[(f64, f64)]) -> String {
        let mut path = String::new();
        let mut pen = 'M';
        for &(x, y) in points {
            if self.shows(x, y) {
                write!(path, "{pen}{} {}", self.x(x), self.y(y)).expect("a string takes any text");
                pen = 'L';
            } else {
                pen = 'M';
            }
        }
        path
    }

    /// The outline of one layer: along its top in steps, and back along what it lies on.
    fn layer(&self, columns: &[Column], layer: usize) -> String {
        let height = |column: &Column, below: usize| column.values[..below].iter().sum::<f64>();
        let mut path = String::new();
        let mut add = |x: f64, y: f64| {
            let pen = if path.is_empty() { 'M' } else { 'L' };
            write!(path, "{pen}{} {}", self.x(x), self.y(y)).expect("a string takes any text");
        };
        for (index, column) in columns.iter().enumerate() {
            add(index as f64, height(column, layer + 1));
            add(index as f64 + 1.0, height(column, layer + 1));
        }
        for (index, column) in columns.iter().enumerate().rev() {
            add(index as f64 + 1.0, height(column, layer));
            add(index as f64, height(column, layer));
        }
        if !path.is_empty() {
            path.push('Z');
        }
        path
    }
}

/// A coordinate to a hundredth, without needless zeros.
pub(super) fn short(x: f64) -> String {
    let text = format!("{x:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> Words {
        let (title, describes) = ("a < b".to_owned(), "falls & rises".to_owned());
        Words { id: "x".into(), title, describes, across: "update".into() }
    }

    fn axis(high: f64) -> Axis {
        Axis { low: 0.0, high, ticks: vec![(0.0, "0".into()), (high, high.to_string())] }
    }

    fn parsed(markup: Markup, look: impl FnOnce(&roxmltree::Document<'_>)) {
        let text = markup.into_string();
        look(&roxmltree::Document::parse(&text).unwrap_or_else(|e| panic!("{e}: {text}")));
    }

    fn with_class<'d>(
        doc: &'d roxmltree::Document<'_>,
        class: &str,
    ) -> Vec<roxmltree::Node<'d, 'd>> {
        let has = |node: &roxmltree::Node<'_, '_>| node.attribute("class") == Some(class);
        doc.descendants().filter(has).collect()
    }

    #[test]
    fn a_line_goes_through_its_points_and_breaks_at_gaps() {
        let tip = |x: f64, y: f64| format!("{x} {y}");
        let points = vec![(0.0, 1.0), (1.0, 0.5), (2.0, f64::NAN), (3.0, 0.0), (4.0, 1.0)];
        let series = [Series { colour: "c0".into(), drawn: Drawn::Line, points, tip }];
        parsed(lines(&words(), &axis(4.0), &axis(1.0), &series), |doc| {
            let path = with_class(doc, "line")[0].attribute("d").unwrap();
            assert_eq!(path, "M54 14L142 113M318 212L406 14");
            let dots = with_class(doc, "dot");
            let tips: Vec<_> =
                dots.iter().map(|dot| dot.first_element_child().unwrap().text()).collect();
            assert_eq!(tips, [Some("0 1"), Some("1 0.5"), Some("3 0"), Some("4 1")]);
            assert_eq!(dots[1].attribute("cx"), Some("142"));
            let svg = doc.root_element();
            assert_eq!(svg.attribute("aria-labelledby"), Some("x-title x-desc"));
            let told: Vec<_> = svg.children().take(2).map(|node| node.text().unwrap()).collect();
            assert_eq!(told, ["a < b", "falls & rises"]);
        });
    }

    #[test]
    fn many_points_are_a_line_without_dots() {
        let points = (0..=60).map(|n| (f64::from(n), 0.5)).collect();
        let tip = |_: f64, _: f64| String::new();
        let series = [Series { colour: "c0".into(), drawn: Drawn::Line, points, tip }];
        parsed(lines(&words(), &axis(60.0), &axis(1.0), &series), |doc| {
            assert!(with_class(doc, "dot").is_empty());
        });
    }

    #[test]
    fn layers_lie_on_each_other_and_levels_where_they_belong() {
        let column = |values: [f64; 2]| Column { tip: "one".into(), values: values.to_vec() };
        let columns = [column([1.0, 1.0]), column([2.0, 2.0])];
        let colours = ["c0".to_owned(), "c1".to_owned()];
        let phases = [("forward".to_owned(), 1), ("head".to_owned(), 1)];
        let levels = [Level { colour: "plan", at: 4.0 }];
        let drawn = stack(&words(), &axis(4.0), &colours, &columns, &phases, &levels);
        parsed(drawn, |doc| {
            let path = |class| with_class(doc, class)[0].attribute("d").unwrap().to_owned();
            assert_eq!(
                path("layer c0"),
                "M54 162.5L230 162.5L230 113L406 113L406 212L230 212L230 212L54 212Z"
            );
            assert_eq!(
                path("layer c1"),
                "M54 113L230 113L230 14L406 14L406 113L230 113L230 162.5L54 162.5Z"
            );
            assert_eq!(with_class(doc, "level plan")[0].attribute("y1"), Some("14"));
            let names: Vec<_> =
                with_class(doc, "label").iter().map(|n| n.text().unwrap()).collect();
            assert_eq!(names, ["forward", "head"]);
            assert_eq!(with_class(doc, "touch").len(), 2);
        });
    }

    #[test]
    fn a_bar_is_divided_by_its_parts() {
        let parts = [("c0".to_owned(), 1.0), ("c1".to_owned(), 2.0)];
        parsed(bar(&words(), 4.0, &parts), |doc| {
            let of = |class, name| with_class(doc, class)[0].attribute(name).unwrap().to_owned();
            assert_eq!((of("layer c0", "x"), of("layer c0", "width")), ("0".into(), "105".into()));
            assert_eq!(
                (of("layer c1", "x"), of("layer c1", "width")),
                ("105".into(), "210".into())
            );
        });
    }
}
