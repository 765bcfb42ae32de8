//! `lowtide bench`: backends and instruction sets side by side, on this machine.

mod contenders;
mod flags;
mod ground;
mod methods;
mod tradeoff;

use std::cell::RefCell;
use std::path::Path;
use std::time::Duration;

use lowtide::Kernels;
use lowtide::bench::kernels::Extent;
use lowtide::bench::suites::{self, Base, SHAPES};
use lowtide::bench::{
    BenchError, Ceiling, Effort, GradientRow, Machine, MemoryRow, Pace, PaperRow, Peer, Probes,
    Report, Row, SCHEMA, Stand, Wall, check_writable, measure, page, read_peers, write,
};
use lowtide::train::SettingsError;

use super::console::Console;
use super::failure::Failure;
use super::{inputs, show};
use contenders::Contenders;
pub(crate) use flags::BenchArgs;
use flags::Suite;
use ground::Ground;

/// Tokens of a step unless told otherwise.
const TOKENS: usize = 512;
/// Tokens that are decoded.
const DECODED: usize = 32;

/// Runs `lowtide bench`.
pub(crate) fn run(args: &BenchArgs) -> Result<(), Failure> {
    let base = base(args)?;
    let peers = args.peers.as_deref().map(read_peers).transpose();
    let peers = peers.map_err(BenchError::from)?.unwrap_or_default();
    let ground = check(args, base.as_ref())?;
    let contenders = Contenders::start(args)?;
    let console = RefCell::new(Console::new(args.voice()));

    console.borrow_mut().advance(0, 1, "measuring what the machine can do".into(), String::new());
    let effort = if args.quick { Effort::quick() } else { Effort::default() };
    let ceilings = ceilings(&contenders.threads(), &effort);
    console.borrow_mut().settle();
    console.borrow_mut().text(&show::bench::ceilings(&Machine::this(), &ceilings));

    let mut report = Report {
        schema: SCHEMA,
        lowtide: env!("CARGO_PKG_VERSION").into(),
        machine: Machine::this(),
        model: base.as_ref().map(Base::name),
        contenders: contenders.about(),
        ceilings,
        rows: Vec::new(),
        memory: Vec::new(),
        gradients: Vec::new(),
        papers: Vec::new(),
        tradeoff: Vec::new(),
        methods: Vec::new(),
        tasks: Vec::new(),
        peers,
    };
    let found = timed(args, base.as_ref(), &contenders, &report.ceilings, &report.peers, &console);
    console.borrow_mut().settle();
    Found {
        rows: report.rows,
        memory: report.memory,
        gradients: report.gradients,
        papers: report.papers,
    } = found?;

    if let Some(ground) = &ground {
        report.model.get_or_insert(ground.name());
        for suite in args.suites() {
            match suite {
                Suite::Tradeoff => report.tradeoff = tradeoff::run(ground, &console)?,
                Suite::Methods => report.methods = methods::run(ground, &args.methods, &console)?,
                Suite::Tasks => report.tasks = methods::tasks(ground, &args.methods, &console)?,
                _ => {}
            }
            console.borrow_mut().settle();
        }
    }

    let mut console = console.into_inner();
    console.text(&show::bench::memory(&report.memory));
    console.text(&show::bench::gradients(&report.gradients));
    console.text(&show::bench::papers(&report.papers));
    for (path, text) in [(&args.json, Report::to_json as fn(&Report) -> _), (&args.html, page)] {
        if let Some(path) = path {
            write(path, &text(&report))?;
            console.text(&format!("wrote {}\n", path.display()));
        }
    }
    Ok(console.finish()?)
}

/// Refuses what would only come to light after minutes of measuring. What the suite that trains
/// needs is found on the way.
fn check(args: &BenchArgs, base: Option<&Base>) -> Result<Option<Ground>, Failure> {
    for path in [&args.json, &args.html].into_iter().flatten() {
        check_writable(path)?;
    }
    if args.suites().contains(&Suite::Kernels) {
        suites::check_filter(extent(args), args.filter.as_deref())?;
    }
    if let Some(base) = base {
        base.check(tokens(args))?;
    }
    args.suites().iter().any(Suite::trains).then(|| Ground::of(args)).transpose()
}

fn extent(args: &BenchArgs) -> Extent {
    if args.quick { Extent::Quick } else { Extent::Full }
}

/// Tokens of a step and of a prompt.
fn tokens(args: &BenchArgs) -> usize {
    args.tokens.or(args.model.as_deref().and_then(shape_tokens)).unwrap_or(TOKENS)
}

/// Measures what the machine can do with its quickest instructions, whoever takes turns.
fn ceilings(threads: &[usize], effort: &Effort) -> Vec<Ceiling> {
    /// Rounds of a table's for one of a probe: about 10 microseconds.
    const ROUNDS: usize = 1000;
    let kernels = Kernels::best();
    let fma = |rounds: u64| kernels.fma_peak(ROUNDS * rounds as usize).0;
    let int8 = |rounds: u64| kernels.int8_peak(ROUNDS * rounds as usize).map_or(0, |peak| peak.0);
    let has_int8 = kernels.int8_peak(0).is_some();
    let probes = Probes { fma: Some(&fma), int8: has_int8.then_some(&int8) };
    measure(threads, probes, effort)
}

/// The base, if a suite needs one.
fn base(args: &BenchArgs) -> Result<Option<Base>, Failure> {
    let alone = |suite: &Suite| matches!(suite, Suite::Kernels | Suite::Papers | Suite::Lars);
    let without = |suite: &Suite| alone(suite) || suite.trains();
    if args.suites().iter().all(without) {
        return Ok(None);
    }
    let Some(model) = &args.model else {
        let expected = "a base, or qwen2.5-0.5b-shape, for the suites step, generate, memory \
                        and gradients";
        let (field, found) = ("model", "missing".into());
        return Err(SettingsError::BadValue { field, found, expected }.into());
    };
    if shape_tokens(model).is_none() {
        inputs::base("model", model, args.voice())?;
    }
    Ok(Some(Base::open(model)?))
}

/// Tokens of a step on a shape that goes by a name.
fn shape_tokens(model: &Path) -> Option<usize> {
    SHAPES.iter().find(|(name, _)| Path::new(name) == model).map(|(_, tokens)| *tokens)
}

/// What the suites found.
#[derive(Default)]
struct Found {
    rows: Vec<Row>,
    memory: Vec<MemoryRow>,
    gradients: Vec<GradientRow>,
    papers: Vec<PaperRow>,
}

/// Runs the suites and tells rows as they come.
fn timed(
    args: &BenchArgs,
    base: Option<&Base>,
    contenders: &Contenders,
    ceilings: &[Ceiling],
    peers: &[Peer],
    console: &RefCell<Console>,
) -> Result<Found, BenchError> {
    let (turn, rounds) = if args.quick { (5, 3) } else { (30, 7) };
    let rounds = args.rounds.map_or(rounds, usize::from);
    let (extent, tokens) = (extent(args), tokens(args));
    contenders.with(|contenders| {
        let stand = Stand {
            contenders,
            ceilings,
            clock: &Wall::default(),
            pace: Pace { turn: Duration::from_millis(turn), rounds },
            on_start: &|name| {
                console.borrow_mut().advance(0, 1, format!("timing {name}"), String::new());
            },
            on_row: &|row| {
                let mut console = console.borrow_mut();
                console.settle();
                console.text(&show::bench::row(row, peers));
            },
        };
        let Found { mut rows, mut memory, mut gradients, mut papers } = Found::default();
        for suite in args.suites() {
            match (suite, base) {
                (Suite::Kernels, _) => {
                    rows.extend(suites::kernels(&stand, extent, args.filter.as_deref())?);
                }
                (Suite::Step, Some(base)) => rows.extend(suites::step(&stand, base, tokens)?),
                (Suite::Generate, Some(base)) => {
                    rows.extend(suites::generate(&stand, base, tokens, DECODED)?);
                }
                (Suite::Memory, Some(base)) => memory.extend(suites::memory(&stand, base, tokens)?),
                (Suite::Gradients, Some(base)) => {
                    gradients.extend(suites::gradients(&stand, base, tokens)?);
                }
                (Suite::Lars, _) => rows.extend(suites::lars(&stand, args.tokens)?),
                (Suite::Papers, _) => papers.extend(suites::papers(&stand, args.quick)?),
                // It has a base of its own, and trains.
                (Suite::Tradeoff | Suite::Methods | Suite::Tasks, _) => {}
                (_, None) => unreachable!("a base was opened for it"),
            }
        }
        Ok(Found { rows, memory, gradients, papers })
    })
}
