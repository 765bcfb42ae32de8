//! Pages hold what they were given, are well formed, and load nothing.

use std::fs;

use super::*;

const HOSTILE: &str =
    "</template><script>alert(1)</script><img src=x onerror=y> & \"quotes\" 'q' \u{0}\u{202e}";

fn run() -> Run {
    let live = |workspace: u64| -> BTreeMap<String, u64> {
        [("adapter".to_owned(), 4 << 20), ("workspace".to_owned(), workspace << 20)].into()
    };
    let stretch =
        |phase: &str, segment, mib| Stretch { phase: phase.into(), segment, live: live(mib) };
    Run {
        folder: "adapters/first".into(),
        settings: Settings {
            model: "models/tiny.gguf".into(),
            data: "lines.jsonl".into(),
            ..Settings::default()
        },
        summary: Summary {
            steps: 3,
            tokens: 1200,
            labelled_tokens: 800,
            loss_first: Some(3.0),
            loss_last: Some(2.5),
            eval_loss_before: Some(3.25),
            eval_loss_after: Some(2.75),
            seconds_per_step_median: Some(0.5),
            tokens_per_second: Some(800.0),
            planned_peak_bytes: 12 << 20,
            peak_bytes: 12 << 20,
            peak_by_category: live(8),
            mapped_bytes: 93 << 20,
            rss_anon_peak_bytes: Some(20 << 20),
            rss_peak_bytes: None,
            backend: "simd/avx2".into(),
            precision: "exact".into(),
            compute: "f32".into(),
            threads: 2,
            policy: "block".into(),
            store: "f32".into(),
            tile_rows: Some(64),
            trainable_parameters: 12_345,
            ..Summary::default()
        },
        updates: [(1, 3.0), (2, 2.75), (3, 2.5)].map(reported).into(),
        notes: Notes {
            version: "0.1.0".into(),
            ended: Some(1_795_312_800),
            sites: 14,
            memory_budget: Some(16 << 20),
            planned: live(8),
            course: vec![
                stretch("forward", 0, 2),
                stretch("forward", 1, 3),
                stretch("head", 2, 5),
                stretch("backward", 1, 8),
                stretch("backward", 0, 7),
            ],
            evaluations: vec![HeldOut { step: 0, loss: 3.25 }, HeldOut { step: 3, loss: 2.75 }],
            samples: vec![Sample {
                prompt: "light in the hall?".into(),
                expected: "on".into(),
                before: "no idea".into(),
                after: " on\n".into(),
            }],
            ..Notes::default()
        },
    }
}

/// An update; the second has no norm.
fn reported((step, loss): (u64, f64)) -> Reported {
    let grad_norm = (step != 2).then_some(0.75);
    Reported { step, loss: Some(loss), lr: Some(1e-4), grad_norm }
}

/// Parses the body, in which every element is closed, and looks at it.
fn parsed(page: &str, look: impl FnOnce(&roxmltree::Document<'_>)) {
    let at = page.find("<body>").expect("a body");
    let end = page.find("</body>").expect("its end") + "</body>".len();
    // XML has no name for this character and HTML shows it as U+FFFD.
    let body = page[at..end].replace('\0', "\u{fffd}");
    look(&roxmltree::Document::parse(&body).unwrap_or_else(|e| panic!("{e}: {body}")));
}

fn words(node: roxmltree::Node<'_, '_>) -> String {
    node.descendants()
        .filter_map(|n| n.is_text().then(|| n.text()).flatten())
        .collect::<Vec<_>>()
        .join(" ")
}

fn classed<'d>(doc: &'d roxmltree::Document<'_>, class: &str) -> Vec<roxmltree::Node<'d, 'd>> {
    let has = |node: &roxmltree::Node<'_, '_>| {
        node.attribute("class").is_some_and(|classes| classes.split(' ').any(|one| one == class))
    };
    doc.descendants().filter(has).collect()
}

#[test]
fn a_page_says_what_is_approximate() {
    let of = |gradient: &str, sliding_window| {
        let mut run = run();
        run.summary = Summary { gradient: gradient.into(), sliding_window, ..run.summary };
        let mut body = String::new();
        parsed(&page(&run), |doc| body = words(doc.root_element()));
        body
    };
    let mezo = of("mezo", Some(1024));
    assert!(mezo.contains("Gradient mezo, approximate two losses in a random direction"), "{mezo}");
    assert!(mezo.contains("Sliding window 1,024 tokens the most that a token sees"), "{mezo}");
    let partial = of("partial", None);
    assert!(partial.contains("partial, approximate backward through a few"), "{partial}");
    let exact = of("backprop", None);
    assert!(!exact.contains("approximate") && !exact.contains("Sliding window"), "{exact}");
}

#[test]
fn a_page_says_which_rank_was_asked_for_where_the_run_did_not_get_there() {
    let of = |asked| {
        let mut run = run();
        let left = crate::RanksLeft::of(&[3, 0, 1, 4]);
        run.summary.ranks = Some(crate::RanksLeft { asked: Some(asked), ..left });
        let mut body = String::new();
        parsed(&page(&run), |doc| body = words(doc.root_element()));
        body
    };
    let (there, above) = (of(2), of(1));
    assert!(there.contains("Rank at the end 2.00 on average 1 to 4, 1 linears"), "{there}");
    assert!(above.contains("2.00 on average, 1 asked for 1 to 4, 1 linears"), "{above}");
}

#[test]
fn a_page_shows_the_run_it_was_given() {
    parsed(&page(&run()), |doc| {
        let body = words(doc.root_element());
        for part in [
            "tiny + lora",
            "lora, rank 8, alpha 16, on 14 linears · lines.jsonl · 3 updates",
            " · 2026-11-22 02:00 UTC",
            "3.250 → 2.750 −15.4 %",
            "3.000 → 2.500 −16.7 %",
            "12.0 MiB as planned, to the byte",
            "20.0 MiB 8.00 MiB beyond the plan",
            "1.50 s 0.50 s an update",
            "800 tokens/s simd/avx2 in f32, 2 threads",
            "1,200 tokens 800 of them labelled",
            "workspace activations of the running block 8.00 MiB 8.00 MiB",
            "in all, the plan's peak 12.0 MiB 12.0 MiB",
            "budget 16.0 MiB",
            "mapped; the system may evict it 93.0 MiB",
            "Held-out loss goes from 3.250 to 2.750.",
            "The fullest is backward, block 1 with 12.0 MiB; the plan's peak is 12.0 MiB.",
            "light in the hall?",
            "After: as expected",
            "model = \"models/tiny.gguf\"",
        ] {
            assert!(body.contains(part), "{part}: {body}");
        }
        assert!(!body.contains("Stopped"), "{body}");
        let tips: Vec<_> = classed(doc, "dot").into_iter().map(words).collect();
        assert_eq!(
            tips[..5].join("|"),
            "update 1: 3.000|update 2: 2.750|update 3: 2.500|update 0: 3.250|update 3: 2.750"
        );
        assert_eq!(tips[8..], ["update 1: 0.75", "update 3: 0.75"], "a gap has no dot");
        assert_eq!(classed(doc, "touch").len(), 5);
        assert_eq!(classed(doc, "level").len(), 2, "the plan and the budget");
    });
    let stopped = Run { notes: Notes { interrupted: true, ..run().notes }, ..run() };
    assert!(page(&stopped).contains("Stopped before its last update"));
}

#[test]
fn a_page_needs_nothing_from_elsewhere() {
    for text in [page(&run()), comparison(&[run(), run()])] {
        for foreign in [
            "<script", "<link", "<img", "<iframe", "http:", "https:", "@import", "url(", " src=",
            " href=",
        ] {
            assert!(!text.contains(foreign), "{foreign}");
        }
        assert!(text.contains("name=\"viewport\" content=\"width=device-width"));
        assert!(text.contains("default-src 'none'"));
        assert!(text.contains("prefers-color-scheme: dark"));
    }
}

#[test]
fn hostile_text_stays_text() {
    let mut hostile = run();
    let text = || HOSTILE.to_owned();
    hostile.folder = HOSTILE.replace('/', "\\").into();
    hostile.settings.model = HOSTILE.replace('/', "\\").into();
    hostile.settings.data = text().into();
    hostile.settings.method = text();
    hostile.summary.backend = text();
    hostile.summary.policy = text();
    hostile.notes.version = text();
    hostile.notes.course[0].phase = text();
    hostile.notes.samples =
        vec![Sample { prompt: text(), expected: text(), before: text(), after: text() }];
    for page in [page(&hostile), comparison(&[hostile.clone(), run()])] {
        for tag in ["<script", "<img", "onerror=y>"] {
            assert!(!page.contains(tag), "{tag}");
        }
        assert!(page.matches("<template").count() <= 1);
        parsed(&page, |doc| assert!(words(doc.root_element()).contains("<script>alert(1)")));
    }
}

#[test]
fn what_was_not_measured_is_left_out() {
    let bare = Run {
        folder: "x".into(),
        settings: Settings::default(),
        summary: Summary::default(),
        updates: Vec::new(),
        notes: Notes::default(),
    };
    parsed(&page(&bare), |doc| {
        assert_eq!(doc.descendants().filter(|n| n.has_tag_name("svg")).count(), 0);
        assert!(!words(doc.root_element()).contains("NaN"));
    });
    let wild = [f64::NAN, f64::INFINITY, -f64::INFINITY, f64::MAX, 0.0, -1.0];
    let updates = (0..wild.len()).map(|at| Reported {
        step: u64::MAX - at as u64,
        loss: Some(wild[at]),
        lr: Some(wild[at]),
        grad_norm: Some(wild[at]),
    });
    let mut odd = Run { updates: updates.collect(), ..run() };
    odd.summary.tokens_per_second = Some(f64::NAN);
    odd.summary.eval_loss_before = Some(f64::INFINITY);
    odd.summary.planned_peak_bytes = u64::MAX;
    odd.notes.memory_budget = Some(0);
    odd.notes.ended = Some(u64::MAX);
    odd.notes.course[0].live.insert("data".into(), u64::MAX);
    for page in [page(&odd), comparison(&[odd.clone(), bare.clone()]), comparison(&[])] {
        assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
        parsed(&page, |_| {});
    }
}

#[test]
fn many_updates_are_drawn_pale_with_their_mean() {
    let update = |step: u64| Reported {
        step,
        loss: Some(if step.is_multiple_of(2) { 3.0 } else { 1.0 }),
        ..Reported::default()
    };
    let long = Run { updates: (1..=500).map(update).collect(), ..run() };
    parsed(&page(&long), |doc| {
        let lines = classed(doc, "line");
        assert_eq!(lines[0].attribute("class"), Some("line faint"));
        let faint = lines[0].attribute("d").unwrap().matches('L').count();
        assert_eq!(faint, 499);
    });
}

#[test]
fn a_comparison_has_a_column_a_curve_and_a_bar_for_each_run() {
    let mut other = run();
    other.folder = "adapters/second".into();
    other.summary.peak_bytes = 6 << 20;
    other.summary.peak_by_category = [("workspace".to_owned(), 6 << 20)].into();
    parsed(&comparison(&[run(), other]), |doc| {
        let body = words(doc.root_element());
        assert!(body.contains("2 runs compared first · second"), "{body}");
        assert!(body.contains("held peak 12.0 MiB 6.00 MiB"), "{body}");
        assert_eq!(classed(doc, "series").len(), 4);
        let bars = classed(doc, "bar");
        let ends = bars.iter().map(|bar| {
            let last = bar.last_element_child().unwrap();
            let of = |name| last.attribute(name).unwrap().parse::<f64>().unwrap();
            of("x") + of("width")
        });
        assert_eq!(ends.collect::<Vec<_>>(), [420.0, 210.0]);
    });
    let twice = comparison(&[run(), run()]);
    assert!(
        twice.contains("adapters/first · adapters/first"),
        "names that are alike are told whole"
    );
}

fn folder_of(run: &Run) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: String| fs::write(folder.path().join(name), text).unwrap();
    put("config.toml", run.settings.to_toml());
    put("summary.json", serde_json::to_string(&run.summary).unwrap());
    let line = |update: &Reported| {
        serde_json::json!({
            "step": update.step, "loss": update.loss, "lr": update.lr,
            "grad_norm": update.grad_norm, "tokens": 5, "seconds": 0.1, "held_bytes": 7,
        })
    };
    put("metrics.jsonl", run.updates.iter().map(|update| format!("{}\n", line(update))).collect());
    folder
}

#[test]
fn a_run_is_found_again_in_its_folder() {
    let mut whole = run();
    whole.notes.samples[0].prompt = HOSTILE.into();
    let folder = folder_of(&whole);
    whole.folder = folder.path().to_owned();
    let without = Run { notes: Notes::default(), ..whole.clone() };
    assert_eq!(Run::read(folder.path()).unwrap(), without);
    write(&folder.path().join(FILE), &page(&whole)).unwrap();
    assert_eq!(Run::read(folder.path()).unwrap(), whole);
    fs::write(folder.path().join(FILE), "<html>another page</html>").unwrap();
    assert_eq!(Run::read(folder.path()).unwrap(), without);
}

#[test]
fn broken_files_are_named_with_the_place() {
    let refused = |name: &str, text: &str| {
        let folder = folder_of(&run());
        fs::write(folder.path().join(name), text).unwrap();
        let error = Run::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
        error
    };
    assert!(refused("metrics.jsonl", "{\"step\": 1}\n{\"step\": -1}\n").contains("line 2: "));
    assert!(refused("metrics.jsonl", &"x".repeat(1 << 20)).contains("line 1 is longer than 4096"));
    assert!(refused("summary.json", "{\"steps\": \"many\"}").contains("expected u64"));
    assert!(refused("config.toml", "rnak = 4").contains("rnak"));
    let page = format!("{}{{]{}", parts::NOTES_OPEN, parts::NOTES_CLOSE);
    assert!(refused(FILE, &page).contains("the notes in it: "));
    let error = Run::read("absent".as_ref()).unwrap_err().to_string();
    assert!(error.starts_with("absent/config.toml: cannot read: "), "{error}");
    assert!(error.ends_with("expected a folder that `lowtide finetune` wrote"), "{error}");
}

#[test]
fn a_run_of_any_length_is_read_into_bounded_memory() {
    let lines: String =
        (1..=5000).map(|step| format!("{{\"step\": {step}, \"loss\": 1.0}}\n")).collect();
    let updates = updates(lines.as_bytes(), "m".as_ref()).unwrap();
    assert!((UPDATES_MAX / 2..=UPDATES_MAX).contains(&updates.len()), "{}", updates.len());
    assert_eq!((updates[0].step, updates[1].step), (1, 9));
}

proptest::proptest! {
    #[test]
    fn any_bytes_in_a_folder_are_refused_or_read(
        bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
        file in 0..4_usize,
    ) {
        let folder = folder_of(&run());
        let name = ["config.toml", "summary.json", "metrics.jsonl", FILE][file];
        fs::write(folder.path().join(name), bytes).unwrap();
        if let Ok(run) = Run::read(folder.path()) {
            assert!(page(&run).ends_with("</html>"));
        }
    }

    #[test]
    fn notes_come_back_from_any_page(text in ".{0,60}") {
        let mut whole = run();
        whole.notes.samples[0].after = format!("{}{text}{}", parts::NOTES_CLOSE, parts::NOTES_OPEN);
        whole.notes.version = text;
        let folder = folder_of(&whole);
        fs::write(folder.path().join(FILE), page(&whole)).unwrap();
        assert_eq!(Run::read(folder.path()).unwrap().notes, whole.notes);
    }
}
