//! Suites run whole on tiny models. The clock stands still: nothing here is timed.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use lowtide_backend::{Backend, Scalar};
use lowtide_bench::kernels::Extent;
use lowtide_bench::suites::{self, Base};
use lowtide_bench::{BenchError, Ceiling, Clock, Contender, Pace, Read, Row, Stand};
use lowtide_ndarray::NdArray;
use lowtide_testkit::tiny::{TinyLlama, tiny_llama_folder};

/// Every look at it is a second later, so that no turn is short.
#[derive(Default)]
struct Ticking(Cell<u64>);

impl Clock for Ticking {
    fn now(&self) -> Duration {
        self.0.set(self.0.get() + 1);
        Duration::from_secs(self.0.get())
    }
}

/// Runs `suite` with two contenders and gives what it came to, and the rows that were heard.
fn stand<T>(suite: impl FnOnce(&Stand<'_>) -> Result<T, BenchError>) -> (T, Vec<Row>) {
    let ndarray = NdArray::new(1);
    let run: &lowtide_bench::Run<'_> = &|job| job();
    let backends: [(&str, &dyn Backend); 2] = [("one", &ndarray), ("two", &Scalar)];
    let contenders = backends.map(|(label, backend)| Contender { label, backend, threads: 1, run });
    let reads = vec![Read { bytes: 1 << 20, bytes_per_second: 1e9 }];
    let ceilings = [Ceiling { threads: 1, f32_flops: Some(1e9), int8_ops: None, reads }];
    let heard = RefCell::new(Vec::new());
    let stand = Stand {
        contenders: &contenders,
        ceilings: &ceilings,
        clock: &Ticking::default(),
        pace: Pace { turn: Duration::from_millis(1), rounds: 2 },
        on_start: &|_| (),
        on_row: &|row| heard.borrow_mut().push(row.clone()),
    };
    let done = suite(&stand).unwrap();
    (done, heard.into_inner())
}

fn base() -> Base {
    let folder = tempfile::tempdir().unwrap();
    tiny_llama_folder(folder.path(), &TinyLlama::default());
    Base::open(folder.path()).unwrap()
}

fn names(rows: &[Row]) -> Vec<&str> {
    rows.iter().map(|row| row.name.as_str()).collect()
}

#[test]
fn operations_are_found_by_a_part_of_their_name() {
    let (rows, heard) = stand(|stand| suites::kernels(stand, Extent::Quick, Some("rmsnorm")));
    assert_eq!(names(&rows), ["rmsnorm 32x576", "rmsnorm_vjp 32x576"]);
    assert_eq!(rows, heard);
    let [one, two] = &rows[0].results[..] else { panic!("{rows:?}") };
    assert_eq!([one.contender.as_str(), two.contender.as_str()], ["one", "two"]);
    assert_eq!((one.calls, one.seconds.median, two.ratio.median), (1, 1.0, 1.0));
    let error = stand_error(|stand| suites::kernels(stand, Extent::Quick, Some("nothing")));
    assert_eq!(error, "no kernel has `nothing` in its name");
}

fn stand_error<T>(suite: impl FnOnce(&Stand<'_>) -> Result<T, BenchError>) -> String {
    let (error, _) = stand(|stand| Ok(suite(stand).err().map(|error| error.to_string())));
    error.expect("it is refused")
}

#[test]
fn a_step_is_timed_forward_and_under_every_policy() {
    let base = base();
    let (rows, _) = stand(|stand| suites::step(stand, &base, 16));
    assert_eq!(names(&rows), ["forward 16", "train 16 store", "train 16 block", "train 16 sqrt"]);
    let planned = |row: usize, who: usize| rows[row].results[who].planned_bytes.unwrap();
    assert!(planned(1, 0) > planned(2, 0), "{rows:?}");
    assert!(planned(2, 0) > planned(0, 0), "{rows:?}");
    assert_eq!(rows[0].results[0].tokens_per_second, Some(16.0));
    assert!(rows[1].work.flops > 2 * rows[0].work.flops * 9 / 10);
    let error = stand_error(|stand| suites::step(stand, &base, 1));
    assert!(error.starts_with("1 tokens: expected 2 to "), "{error}");
}

#[test]
fn gradients_are_compared_with_the_exact_one() {
    let base = base();
    let (rows, _) = stand(|stand| suites::gradients(stand, &base, 16));
    let names: Vec<_> = rows.iter().take(rows.len() / 2).map(|row| row.name.as_str()).collect();
    let expected = [
        "block, f32",
        "block, bf16",
        "block, int8",
        "partial, 1 of 2 blocks",
        "partial, 1 of 2 blocks",
        "mezo, eps 0.01",
        "mezo, eps 0.001",
        "mezo, mean of 16 draws",
    ];
    assert_eq!(names, expected);
    assert!(rows.iter().all(|row| row.charged_bytes == row.planned_bytes), "{rows:?}");
    let cosines: Vec<_> = rows.iter().map(|row| row.cosine).collect();
    assert_eq!((rows[0].relative_error, rows[0].seconds), (0.0, 1.0));
    assert!((cosines[0] - 1.0).abs() < 1e-12, "{cosines:?}");
    assert!(cosines[1] > 0.999 && cosines[1] < cosines[0], "{cosines:?}");
    assert!(cosines[2] > 0.99 && cosines[2] < cosines[1], "{cosines:?}");
    assert!(cosines[3] > 0.0 && cosines[3] < 0.99, "{cosines:?}");
    assert!(cosines[7] > 0.0 && cosines[7] < 0.5, "{cosines:?}");
    assert!((cosines[8] - 1.0).abs() < 1e-6, "another backend: {cosines:?}");
}

#[test]
fn prompts_are_read_and_tokens_follow() {
    let base = base();
    let (rows, _) = stand(|stand| suites::generate(stand, &base, 9, 4));
    assert_eq!(names(&rows), ["prompt 9", "decode 4", "decode 4 after 9"]);
    assert_eq!(rows[1].results[1].tokens_per_second, Some(4.0));
    assert_eq!(rows[1].work.bytes, 4 * base.bytes());
}

#[test]
fn what_is_charged_is_what_was_planned() {
    let base = base();
    let (rows, _) = stand(|stand| suites::memory(stand, &base, 16));
    let told: Vec<_> = rows.iter().map(|row| (row.contender.as_str(), row.name.as_str())).collect();
    let runs = ["forward", "train store", "train block", "train every:2", "train sqrt"];
    let runs = runs.map(|run| match run.split_once(' ') {
        Some((what, policy)) => format!("{what} 16 {policy}"),
        None => format!("{run} 16"),
    });
    let all: Vec<_> =
        ["one", "two"].iter().flat_map(|who| runs.iter().map(|run| (*who, &**run))).collect();
    assert_eq!(told, all);
    for row in &rows {
        assert_eq!(row.planned_bytes, row.charged_bytes, "{row:?}");
        let sum: u64 = row.by_category.iter().map(|(_, bytes)| bytes).sum();
        assert_eq!(sum, row.planned_bytes, "{row:?}");
    }
}
