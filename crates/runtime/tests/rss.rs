//! Reality agrees with the plan: what the operating system says the process holds while a session
//! reads a prompt and answers. In a binary of its own: the numbers are those of the process.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use lowtide_backend::Backend;
use lowtide_memory::release_free_heap;
use lowtide_ndarray::NdArray;
use lowtide_runtime::{BaseText, OpenBase, Prompt, Request, Session};
use lowtide_simd::Simd;
use lowtide_testkit::rss::Sampler;
use lowtide_testkit::text::byte_tokenizer_files;
use lowtide_testkit::tiny::{TinyLlama, tiny_llama_folder};

/// What a session may hold beyond its plan.
const SLACK_BYTES: u64 = 2 << 20;

const CONTEXT: usize = 2048;
const GENERATED: usize = 100;

/// Reads and generates `tokens` tokens, and says what was planned and by how much anonymous
/// memory grew.
fn growth(
    dir: &Path,
    be: &dyn Backend<f32>,
    tokens: usize,
    budget: Option<u64>,
) -> Option<(u64, u64)> {
    let base = OpenBase::open(dir).unwrap();
    let text = BaseText::open(&base).unwrap();
    let model = base.build(None).unwrap();
    let prompt: Vec<u32> = (0..(tokens - GENERATED) as u32).map(|t| t * 31 % 8000).collect();
    let request = Request { max_tokens: GENERATED, ignore_ends: true, ..Request::default() };
    release_free_heap();
    let sampler = Sampler::start(Duration::from_millis(2))?;
    let mut session = Session::reserve(&model, &text, be, CONTEXT, budget).unwrap();
    let planned = session.ledger().live().held();
    let mut hear = |_: &str| ControlFlow::Continue(());
    let answer = session.complete(Prompt::Ids(&prompt), &request, &mut hear).unwrap();
    assert_eq!(answer.ids.len(), GENERATED);
    let peak = sampler.stop();
    assert_eq!(session.ledger().live().held(), planned, "nothing is charged on the way");
    Some((planned, peak.anon_growth()))
}

#[test]
fn a_session_grows_by_its_plan() {
    let dir = tempfile::tempdir().unwrap();
    let shape = TinyLlama {
        hidden: 128,
        layers: 6,
        heads: 4,
        kv_heads: 4,
        head_dim: 32,
        intermediate: 384,
        vocab: 8192,
        ..TinyLlama::default()
    };
    tiny_llama_folder(dir.path(), &shape);
    byte_tokenizer_files(dir.path(), false);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    pool.install(|| {
        let (simd, ndarray) = (Simd::new(2), NdArray::new(2));
        // Once before, so that threads, their stacks and whatever is made on first use exist.
        if growth(dir.path(), &simd, 300, None).is_none() {
            say("skipped: this system does not tell what a process holds");
            return;
        }
        growth(dir.path(), &ndarray, 300, None);
        // The fastest plan, and a leaner one.
        let jobs: [(&dyn Backend<f32>, _); 3] =
            [(&simd, None), (&simd, Some(14 << 20)), (&ndarray, Some(14 << 20))];
        for (be, budget) in jobs {
            let (planned, grown) = growth(dir.path(), be, CONTEXT, budget).unwrap();
            let name = be.name();
            say(&format!("{name}, {budget:?}: planned {planned} bytes, RssAnon grew by {grown}"));
            assert!(planned > 10 << 20, "{planned} bytes are too few to tell");
            assert!(grown <= planned + SLACK_BYTES, "{grown} bytes, {planned} planned");
            // Most of what is planned is really used, otherwise this proves nothing.
            assert!(grown > planned * 3 / 4, "{grown} bytes of {planned} planned");
        }
    });
}

/// Tells a figure even when the test passes: past the capture of its output.
fn say(line: &str) {
    // A closed stderr must not fail the test.
    let _ = writeln!(std::io::stderr(), "{line}");
}
