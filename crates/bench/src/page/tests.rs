//! Pages and JSON of a report that was made up.

use serde_json::Value;

use super::*;
use crate::{Figure, Machine, PaperRun, Read, SCHEMA, Spread, Timing, TradeoffRow, Work};

fn measured(contender: &str, seconds: f64, work: Work, tokens: Option<u64>) -> Measured {
    let spread = |median: f64| Spread { low: 0.9 * median, median, high: 1.1 * median };
    let timing = Timing { seconds: spread(seconds), ratio: spread(seconds / 0.5), calls: 3 };
    Measured::of(contender, timing, work, tokens, Some(&ceiling()))
}

fn ceiling() -> Ceiling {
    let reads = vec![Read { bytes: 1 << 20, bytes_per_second: 2e10 }];
    Ceiling { threads: 2, f32_flops: Some(3e11), int8_ops: Some(1.4e12), reads }
}

fn trial(lever: &str, choice: &str, bytes: u64) -> TradeoffRow {
    TradeoffRow {
        lever: lever.into(),
        choice: choice.into(),
        plan: "block, f32".into(),
        planned_bytes: bytes,
        charged_bytes: bytes,
        mapped_bytes: 2 << 20,
        loss_before: Some(2.0),
        loss_after: Some(1.25),
        updates: 9,
        seconds: Some(0.5),
        gradient_cosine: None,
    }
}

fn report() -> Report {
    let about = |label: &str| About {
        label: label.into(),
        backend: label.into(),
        isa: "none".into(),
        threads: 2,
    };
    let row = |suite: &str, name: &str, tokens| {
        let work = Work::new(75_000_000_000, 1000);
        let results = vec![measured("a<b", 0.5, work, tokens), measured("c", 1.0, work, tokens)];
        Row { suite: suite.into(), name: name.into(), work, tokens, results }
    };
    let figure = Figure {
        suite: "step".into(),
        rows: vec!["train 512 block".into()],
        seconds: Some(2.0),
        tokens_per_second: None,
    };
    Report {
        schema: SCHEMA,
        lowtide: "0.1.0".into(),
        machine: Machine { processor: None, cores: 2, arch: "x".into(), os: "y".into() },
        model: Some("<script>alert(1)</script>".into()),
        contenders: vec![about("a<b"), about("c")],
        ceilings: vec![ceiling()],
        rows: vec![row("kernels", "matmul 1x2x3", None), row("step", "train 512 block", Some(512))],
        gradients: vec![GradientRow {
            name: "mezo, eps <0.01>".into(),
            contender: "simd/2".into(),
            cosine: 0.0005,
            relative_error: 1562.0,
            seconds: 1.5,
            planned_bytes: 20 << 20,
            charged_bytes: 20 << 20,
        }],
        papers: vec![PaperRow {
            terms: "someone's <terms>".into(),
            model: "shape".into(),
            tokens: 256,
            contender: "simd/2".into(),
            published_bytes: Some(100 << 20),
            policy: "sqrt".into(),
            store: "bf16".into(),
            tile_rows: Some(64),
            planned_bytes: 25 << 20,
            by_category: vec![("adapter".into(), 25 << 20)],
            run: Some(PaperRun {
                charged_bytes: 25 << 20,
                grown_bytes: Some(26 << 20),
                resident_bytes: Some(99 << 20),
                seconds: 4.25,
            }),
        }],
        memory: vec![MemoryRow {
            name: "train 512 block".into(),
            contender: "c".into(),
            planned_bytes: 3 << 20,
            charged_bytes: 3 << 20,
            grown_bytes: Some((3 << 20) + 2048),
            by_category: vec![("adapter".into(), 3 << 20)],
        }],
        methods: Vec::new(),
        tasks: Vec::new(),
        tradeoff: vec![trial("base", "as it is", 3 << 20), trial("rank", "<32>", 5 << 20)],
        peers: vec![Peer { name: "P & Q".into(), threads: Some(2), figures: vec![figure] }],
    }
}

#[test]
fn a_page_is_one_sound_document_and_no_text_escapes_into_it() {
    let page = page(&report());
    let body = page.strip_prefix("<!DOCTYPE html>").expect("a document");
    // Void elements are the only ones that XML would close; a page has them in its head alone.
    let (_, main) = body.split_once("<main>").expect("a main part");
    let (main, _) = main.split_once("</main>").expect("an end of it");
    let sound = format!("<main>{main}</main>");
    roxmltree::Document::parse(&sound).unwrap_or_else(|error| panic!("{error}: {sound}"));
    assert!(!page.contains("<script") && !page.contains("a<b"), "{page}");
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "{page}");
    assert!(page.contains("default-src 'none'"), "{page}");
    for part in [
        "f32 peak",
        "300 GFLOP/s",
        "20.0 GB/s",
        "a&lt;b · 500 ms ±10 % · 150 GFLOP/s · ×1.00 · 50 % of the limit",
        "1,024 tokens/s",
        "P &amp; Q · 2 threads · 2.00 s · 256 tokens/s · a&lt;b takes ×0.25 · c takes ×0.50",
        "+2.00 KiB",
        "shape, someone's &lt;terms&gt;",
        "<td>25 %</td>",
        "<td>4.25 s</td>",
        "2 · rank &lt;32&gt;: 5.00 MiB held, 2.00 MiB of weights, held-out loss 1.2500",
        "<td>1.2500</td>",
    ] {
        assert!(main.contains(part), "{part}: {main}");
    }
}

#[test]
fn json_has_the_fields_that_the_book_names_and_reads_back() {
    let report = report();
    let json: Value = serde_json::from_str(&report.to_json()).unwrap();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let top = ["schema", "lowtide", "machine", "model", "contenders", "ceilings", "rows", "memory"];
    assert_eq!(keys(&json)[..8], top);
    assert_eq!(json["schema"], 1);
    assert_eq!(keys(&json["ceilings"][0]), ["threads", "f32_flops", "int8_ops", "reads"]);
    assert_eq!(keys(&json["rows"][0]), ["suite", "name", "work", "tokens", "results"]);
    assert_eq!(keys(&json["rows"][0]["work"]), ["flops", "bytes", "span"]);
    let result = &json["rows"][1]["results"][1];
    let fields = [
        "contender",
        "seconds",
        "ratio",
        "calls",
        "flops_per_second",
        "bytes_per_second",
        "tokens_per_second",
        "limit",
        "share",
        "planned_bytes",
    ];
    assert_eq!(keys(result), fields);
    let fields = [
        "terms",
        "model",
        "tokens",
        "contender",
        "published_bytes",
        "policy",
        "store",
        "tile_rows",
        "planned_bytes",
        "by_category",
        "run",
    ];
    assert_eq!(keys(&json["papers"][0]), fields);
    assert_eq!(
        keys(&json["papers"][0]["run"]),
        ["charged_bytes", "grown_bytes", "resident_bytes", "seconds"]
    );
    assert_eq!(keys(&result["seconds"]), ["low", "median", "high"]);
    assert_eq!((&result["limit"], &result["share"]), (&"compute".into(), &0.25.into()));
    assert_eq!(result["tokens_per_second"], 512.0);
    let back: Report = serde_json::from_value(json).unwrap();
    assert_eq!(back, report);
}

#[test]
fn times_have_units() {
    assert_eq!([1.5e-6, 0.0123, 1.234].map(time), ["1.50 µs", "12.3 ms", "1.23 s"]);
}
