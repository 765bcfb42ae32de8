//! What a bench found, as lines.

use lowtide::bench::{
    Ceiling, GradientRow, Limit, Machine, Measured, MemoryRow, PaperRow, Peer, Row, beside,
};

use super::{line, number};

/// What the machine can do at best.
pub(crate) fn ceilings(machine: &Machine, ceilings: &[Ceiling]) -> String {
    let mut text = format!("{}\n", machine.processor.as_deref().unwrap_or("unknown processor"));
    for ceiling in ceilings {
        let threads = number::counted(ceiling.threads as u64, "thread");
        let mut parts = Vec::new();
        if let Some(flops) = ceiling.f32_flops {
            parts.push(format!("f32 {} GFLOP/s", three(flops / 1e9)));
        }
        if let Some(ops) = ceiling.int8_ops {
            parts.push(format!("int8 {} GOP/s", three(ops / 1e9)));
        }
        for read in &ceiling.reads {
            let size = number::bytes(read.bytes);
            parts.push(format!("{size} {} GB/s", three(read.bytes_per_second / 1e9)));
        }
        line(&mut text, &format!("  {threads:<12}{}", parts.join(", ")));
    }
    text.push('\n');
    text
}

/// One thing that was timed: a line for each contender, and one for each peer.
pub(crate) fn row(row: &Row, peers: &[Peer]) -> String {
    let peers: Vec<_> = beside(peers, row).collect();
    let names = row.results.iter().map(|measured| measured.contender.as_str());
    let names = names.chain(peers.iter().map(|(peer, _)| peer.name.as_str()));
    let wide = names.map(|name| name.chars().count()).max().unwrap_or(0);
    let mut text = format!("{}\n", row.name);
    for measured in &row.results {
        let name = &measured.contender;
        let noise = format!("±{:.0} %", 100.0 * measured.seconds.noise());
        let time = time(measured.seconds.median);
        let (rate, ratio, share) = (rate(row, measured), measured.ratio.median, share(measured));
        let told =
            format!("  {name:<wide$}  {time:>9} {noise:>6}  {rate:>16}  x{ratio:.2}  {share}");
        line(&mut text, &told);
    }
    for (peer, seconds) in peers {
        let (name, time) = (&peer.name, time(seconds));
        let rate = row.tokens.map(|tokens| tokens_per_second(tokens as f64 / seconds));
        let rate = rate.unwrap_or_default();
        let first = row.results.first().map_or(f64::NAN, |measured| measured.seconds.median);
        let ratio = seconds / first;
        line(&mut text, &format!("  {name:<wide$}  {time:>9} {:>6}  {rate:>16}  x{ratio:.2}", ""));
    }
    text
}

fn rate(row: &Row, measured: &Measured) -> String {
    match measured.tokens_per_second {
        Some(rate) => tokens_per_second(rate),
        None if row.work.flops > 0 => {
            format!("{} GFLOP/s", three(measured.flops_per_second / 1e9))
        }
        None => format!("{} GB/s", three(measured.bytes_per_second / 1e9)),
    }
}

fn tokens_per_second(rate: f64) -> String {
    format!("{} tokens/s", three(rate))
}

/// The share of the limit that binds, and what was planned to be held.
fn share(measured: &Measured) -> String {
    let of = match measured.limit {
        Some(Limit::Compute) => "the f32 peak",
        _ => "reading memory",
    };
    let share = measured.share.map(|share| format!("{:.0} % of {of}", 100.0 * share));
    let held = measured.planned_bytes.map(|bytes| format!("{} held", number::bytes(bytes)));
    [share, held].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// `12.3 us`, `4.56 ms`, `1.23 s`.
pub(crate) fn time(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{} us", three(s * 1e6)),
        s if s < 1.0 => format!("{} ms", three(s * 1e3)),
        s => format!("{} s", three(s)),
    }
}

/// Three digits, or all before the point.
fn three(value: f64) -> String {
    match value {
        v if v < 9.995 => format!("{v:.2}"),
        v if v < 99.95 => format!("{v:.1}"),
        v => number::count(v.round() as u64),
    }
}

/// What was planned, charged and really held; nothing where nothing was measured.
pub(crate) fn memory(rows: &[MemoryRow]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let wide = |text: fn(&MemoryRow) -> &str| {
        rows.iter().map(|row| text(row).chars().count()).max().unwrap_or(0)
    };
    let (names, labels) = (wide(|row| &row.name), wide(|row| &row.contender));
    let mut text = String::new();
    let head = ("planned", "charged", "grown");
    let title = format!("{:names$}  {:labels$}", "Memory", "");
    line(&mut text, &format!("{title}  {:>12}  {:>12}  {:>12}", head.0, head.1, head.2));
    for row in rows {
        let MemoryRow { name, contender, planned_bytes, charged_bytes, grown_bytes, .. } = row;
        let [planned, charged] = [*planned_bytes, *charged_bytes].map(number::bytes);
        let grown = grown_bytes.map_or_else(|| "unknown".to_owned(), number::bytes);
        let title = format!("{name:names$}  {contender:labels$}");
        line(&mut text, &format!("{title}  {planned:>12}  {charged:>12}  {grown:>12}"));
    }
    text
}

/// Gradients beside the exact one; nothing where none was taken.
pub(crate) fn gradients(rows: &[GradientRow]) -> String {
    let mut text = String::new();
    if rows.is_empty() {
        return text;
    }
    let wide = |text: fn(&GradientRow) -> &str| {
        rows.iter().map(|row| text(row).chars().count()).max().unwrap_or(0)
    };
    let names = wide(|row| &row.name).max("Gradients".len());
    let labels = wide(|row| &row.contender);
    let title = format!("\n{:names$}  {:labels$}", "Gradients", "");
    let head = ("cosine", "relative error", "charged", "an update");
    line(
        &mut text,
        &format!("{title}  {:>10}  {:>14}  {:>12}  {:>9}", head.0, head.1, head.2, head.3),
    );
    for row in rows {
        let GradientRow { name, contender, cosine, relative_error, .. } = row;
        let (charged, seconds) = (number::bytes(row.charged_bytes), time(row.seconds));
        let title = format!("{name:names$}  {contender:labels$}");
        let figures = format!("{cosine:>10.7}  {relative_error:>14.2e}");
        line(&mut text, &format!("{title}  {figures}  {charged:>12}  {seconds:>9}"));
    }
    text
}

/// Published settings beside our plans; nothing where none was planned.
pub(crate) fn papers(rows: &[PaperRow]) -> String {
    let mut text = String::new();
    let mut terms = "";
    for row in rows {
        if row.terms != terms {
            terms = &row.terms;
            line(&mut text, &format!("\n{terms}"));
            let head = ["published", "planned", "charged", "grown", "with base", "an update"];
            let title = format!("  {:14}{:>7}  {:16}", "model", "tokens", "contender");
            let figures: String = head.map(|word| format!("{word:>13}")).concat();
            line(&mut text, &format!("{title}{figures}  plan"));
        }
        let PaperRow { model, tokens, contender, .. } = row;
        let known = |n: Option<u64>| n.map_or_else(|| "-".to_owned(), number::bytes);
        let (published, planned) = (known(row.published_bytes), number::bytes(row.planned_bytes));
        let charged = known(row.run.map(|run| run.charged_bytes));
        let grown = known(row.run.and_then(|run| run.grown_bytes));
        let resident = known(row.run.and_then(|run| run.resident_bytes));
        let seconds = row.run.map_or_else(|| "-".to_owned(), |run| format!("{:.1} s", run.seconds));
        let figures = [published, planned, charged, grown, resident, seconds];
        let figures: String = figures.map(|figure| format!("{figure:>13}")).concat();
        let tile = row.tile_rows.map_or_else(String::new, |rows| format!(", {rows} rows"));
        let title = format!("  {model:14}{tokens:>7}  {contender:16}");
        line(&mut text, &format!("{title}{figures}  {}, {}{tile}", row.policy, row.store));
    }
    text
}

#[cfg(test)]
mod tests {
    use lowtide::bench::{Figure, Read, Spread, Work};

    use super::*;

    fn measured(contender: &str, seconds: f64, tokens: Option<f64>) -> Measured {
        let spread = |median: f64| Spread { low: 0.9 * median, median, high: 1.1 * median };
        Measured {
            contender: contender.into(),
            seconds: spread(seconds),
            ratio: spread(seconds / 0.004),
            calls: 1,
            flops_per_second: 2.5e11,
            bytes_per_second: 1e9,
            tokens_per_second: tokens,
            limit: Some(Limit::Compute),
            share: Some(0.714),
            planned_bytes: tokens.map(|_| 3 << 20),
        }
    }

    #[test]
    fn rows_line_up_with_peers_under_them() {
        let results = vec![measured("ndarray/2", 0.004, None), measured("simd/2", 0.002, None)];
        let work = Work::new(1_000_000_000, 10);
        let mut row_of =
            Row { suite: "step".into(), name: "train 512".into(), work, tokens: None, results };
        let expected = "\
train 512
  ndarray/2    4.00 ms  ±10 %       250 GFLOP/s  x1.00  71 % of the f32 peak
  simd/2       2.00 ms  ±10 %       250 GFLOP/s  x0.50  71 % of the f32 peak
";
        assert_eq!(row(&row_of, &[]), expected);
        row_of.tokens = Some(512);
        row_of.results = vec![measured("a", 0.004, Some(128_000.0))];
        let figure = Figure {
            suite: "step".into(),
            rows: vec!["train 512".into()],
            seconds: Some(2.0),
            tokens_per_second: None,
        };
        let peer = Peer { name: "peer".into(), threads: None, figures: vec![figure] };
        let expected = "\
train 512
  a       4.00 ms  ±10 %  128,000 tokens/s  x1.00  71 % of the f32 peak, 3.00 MiB held
  peer     2.00 s           256 tokens/s  x500.00
";
        assert_eq!(row(&row_of, &[peer]).replace("  256", "256"), expected);
    }

    #[test]
    fn ceilings_and_memory_are_tables() {
        let machine = Machine { processor: Some("P".into()), ..Machine::default() };
        let reads = vec![Read { bytes: 256 << 20, bytes_per_second: 2.9e10 }];
        let ceiling =
            Ceiling { threads: 1, f32_flops: Some(1.8e11), int8_ops: Some(7.7e11), reads };
        let expected = "P\n  1 thread    f32 180 GFLOP/s, int8 770 GOP/s, 256.00 MiB 29.0 GB/s\n\n";
        assert_eq!(ceilings(&machine, &[ceiling]), expected);
        let row = MemoryRow {
            name: "train".into(),
            contender: "a/2".into(),
            planned_bytes: 1 << 20,
            charged_bytes: 1 << 20,
            grown_bytes: None,
            by_category: Vec::new(),
        };
        let expected = "\
Memory            planned       charged         grown
train   a/2      1.00 MiB      1.00 MiB       unknown
";
        // The name of a run may be shorter than the title.
        assert_eq!(memory(&[row]).replace("train  a/2", "train   a/2"), expected);
        assert_eq!(memory(&[]), "");
    }

    #[test]
    fn gradients_are_a_table() {
        let row = |name: &str, cosine, relative_error| GradientRow {
            name: name.into(),
            contender: "simd/2".into(),
            cosine,
            relative_error,
            seconds: 2.5,
            planned_bytes: 20 << 20,
            charged_bytes: 20 << 20,
        };
        let rows = [row("block, f32", 1.0, 0.0), row("mezo", -0.000_512_3, 1562.0)];
        let expected = "

Gradients               cosine  relative error       charged  an update
block, f32  simd/2   1.0000000          0.00e0     20.00 MiB     2.50 s
mezo        simd/2  -0.0005123          1.56e3     20.00 MiB     2.50 s
";
        assert_eq!(gradients(&rows), expected[1..]);
        assert_eq!(gradients(&[]), "");
    }

    #[test]
    fn times_and_figures_have_three_digits() {
        assert_eq!([1.5e-6, 0.0123, 1.234].map(time), ["1.50 us", "12.3 ms", "1.23 s"]);
        assert_eq!([9.994, 9.996, 1234.5].map(three), ["9.99", "10.0", "1,235"]);
    }
}
