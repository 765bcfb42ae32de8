//! What pages have in common: head, tiles, legends, and the notes they carry. Other pages than a
//! run's are made of the same.

use std::path::Path;

use lowtide_memory::Category;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{Notes, Run};

const STYLE: &str = include_str!("style.css");

/// Nothing may be loaded and nothing may run, whatever a page were made to contain.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// What stands around the notes of a page. No text of a user can contain it: in the body `<` is
/// written `&lt;`, in the notes `\u003c`.
pub(super) const NOTES_OPEN: &str = "<template id=\"lowtide-notes\">";
pub(super) const NOTES_CLOSE: &str = "</template>";

/// A whole page.
#[must_use]
pub fn document(title: &str, body: &Markup) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main { (body) }
            }
        }
    }
    .into_string()
}

/// One figure of a page's first rows.
#[must_use]
pub fn tile(name: &str, figure: &str, remark: &str) -> Markup {
    html! {
        div class="tile" {
            dt { (name) }
            dd { strong { (figure) } @if !remark.is_empty() { span { (remark) } } }
        }
    }
}

/// A titled box.
#[must_use]
pub fn card(class: &str, title: &str, remark: &str, inside: &Markup) -> Markup {
    html! {
        section class={ "card " (class) } {
            h2 { (title) }
            @if !remark.is_empty() { p class="remark" { (remark) } }
            (inside)
        }
    }
}

/// Colours with what they stand for.
#[must_use]
pub fn legend(entries: &[(&str, String)]) -> Markup {
    html! {
        ul class="legend" {
            @for (colour, words) in entries { li { (swatch(colour)) (words) } }
        }
    }
}

/// A patch of a colour.
#[must_use]
pub fn swatch(colour: &str) -> Markup {
    html! { i class={ "swatch " (colour) } aria-hidden="true" {} }
}

/// Who made the page.
#[must_use]
pub fn footer(version: &str) -> Markup {
    html! {
        footer {
            "Made by Lowtide " (version) ". One file: it loads nothing and runs nothing."
        }
    }
}

/// The notes, to be read again by [`Run::read`].
pub(super) fn carried(notes: &Notes) -> Markup {
    let json = serde_json::to_string(notes).expect("notes are plain values");
    let json = json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
    PreEscaped(format!("{NOTES_OPEN}{json}{NOTES_CLOSE}"))
}

/// Categories in the order they are stacked, those that live longest first, with what they hold.
pub(super) const STACK: [(Category, &str); 9] = [
    (Category::Adapter, "trained parameters"),
    (Category::Optimizer, "state of the optimizer"),
    (Category::Gradient, "gradients of the adapter"),
    (Category::Data, "batch and datasets"),
    (Category::Checkpoint, "kept from forward to backward"),
    (Category::Workspace, "activations of the running block"),
    (Category::Head, "loss, a tile at a time"),
    (Category::Scratch, "lent to one operation"),
    (Category::KvCache, "keys and values of generation"),
];

/// Class of a category's colour.
pub(super) fn colour(category: Category) -> String {
    format!("c-{}", category.name().replace('_', "-"))
}

/// What a person calls a category.
pub(super) fn spoken(category: Category) -> String {
    category.name().replace('_', " ")
}

/// A short name of a file or folder.
pub(super) fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

/// What a run is called: its base and its method.
pub(super) fn title(run: &Run) -> String {
    let base = name(&run.settings.model);
    let base = base.strip_suffix(".gguf").unwrap_or(&base);
    format!("{base} + {}", run.settings.method)
}
