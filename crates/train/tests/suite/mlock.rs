//! Memory that is locked: what was reserved, as far as the system says how much that is.

use lowtide_simd::Simd;
use lowtide_testkit::tiny::TinyLlama;
use lowtide_train::{Event, Settings, TrainError, finetune};

use crate::support::Home;

/// Bytes that the process has locked, where the system says.
fn locked() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmLck:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? << 10)
}

#[test]
fn what_is_reserved_is_locked() {
    let home = Home::new(&TinyLlama::default());
    for store in ["f32", "file"] {
        let settings = Settings {
            mlock: true,
            checkpointing: "block".into(),
            checkpoint_store: store.into(),
            output: home.path(store),
            ..home.settings(&[40, 33])
        };
        let (mut planned, mut most) = (0, None);
        let done = finetune(&settings, &Simd::new(1), 1, &mut |event| match event {
            Event::Plan(plan) => {
                let category = |name: &str| plan.peak_by_category.get(name).copied().unwrap_or(0);
                planned = category("adapter") + category("gradient") + category("optimizer");
                planned += category("checkpoint") + plan.arena_bytes;
            }
            Event::Step(_) => most = most.max(locked()),
            _ => {}
        });
        match done {
            Ok(summary) => {
                assert!(summary.mlock);
                assert!(most.is_none_or(|most| most >= planned), "{most:?} of {planned}, {store}");
            }
            Err(error) => assert!(matches!(error, TrainError::Lock(_)), "{error}"),
        }
    }
}
