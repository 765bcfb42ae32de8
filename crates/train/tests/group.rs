//! A base larger than what a control group allows, page cache included: the run takes its budget
//! from the group, streams its weights, and gives the bits it gives outside.
//!
//! The test calls itself once more as the process in the group. Where no group can be made, which
//! usually takes root, it says so and is done.
#![allow(clippy::disallowed_methods, reason = "the process in the group is told where to go")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use lowtide_simd::Simd;
use lowtide_testkit::tiny::TinyLlama;
use lowtide_train::{BudgetSource, Event, Settings, Summary, finetune};

use support::{Home, say};

#[path = "suite/support.rs"]
mod support;

const LIMIT: u64 = 96 << 20;
/// Tells the process in the group which group and which folder.
const GROUP: &str = "LOWTIDE_TEST_GROUP";
const FOLDER: &str = "LOWTIDE_TEST_FOLDER";

/// A control group of its own that goes away with the test.
struct Group(PathBuf);

impl Group {
    /// `None` where this process may make none, or memory is not limited by groups.
    fn make() -> Option<Self> {
        let name = format!("lowtide-test-{}", std::process::id());
        let kinds =
            [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        kinds.into_iter().find_map(|(mounted, limit)| {
            let group = Self(Path::new(mounted).join(&name));
            fs::create_dir(&group.0).ok()?;
            // Where the file is not there, writing fails: nothing else may be made in a group.
            fs::write(group.0.join(limit), LIMIT.to_string()).ok().map(|()| group)
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A group that is not gone is empty and harms nobody.
        let _ = fs::remove_dir(&self.0);
    }
}

fn settings(folder: &Path, output: &str) -> Settings {
    Settings {
        model: folder.join("base"),
        data: folder.join("data.jsonl"),
        output: folder.join(output),
        max_steps: Some(2),
        target_modules: "q_proj,v_proj".into(),
        max_grad_norm: 0.0,
        samples: 0,
        ..Settings::default()
    }
}

/// Loss and adapter of a run.
fn outcome(settings: &Settings) -> (Summary, Vec<u8>) {
    let summary = fs::read(settings.output.join("summary.json")).unwrap();
    let adapter = fs::read(settings.output.join("adapter_model.safetensors")).unwrap();
    (serde_json::from_slice(&summary).unwrap(), adapter)
}

#[test]
fn a_base_larger_than_the_group_trains_to_the_same_bits() {
    if env::var_os(GROUP).is_some() {
        return;
    }
    let Some(group) = Group::make() else {
        return say("skipped: no control group with a memory limit can be made here");
    };
    let shape = TinyLlama {
        hidden: 512,
        layers: 12,
        heads: 8,
        kv_heads: 4,
        head_dim: 64,
        intermediate: 1536,
        ..TinyLlama::default()
    };
    let home = Home::new(&shape);
    home.data(&[24, 20]);
    let folder = home.path("");
    let child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "the_run_in_the_group", "--nocapture"])
        .envs([(GROUP, &group.0), (FOLDER, &folder)])
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
    let outside = settings(&folder, "outside");
    finetune(&outside, &Simd::new(1), 1, &mut |_| ()).unwrap();

    let (inside, outside) = (outcome(&settings(&folder, "inside")), outcome(&outside));
    assert!(inside.0.mapped_bytes > LIMIT, "{} bytes are no test", inside.0.mapped_bytes);
    assert!(inside.0.stream_weights);
    assert_eq!(
        (inside.0.loss_first, inside.0.loss_last),
        (outside.0.loss_first, outside.0.loss_last)
    );
    assert!(inside.1 == outside.1, "the adapters differ");
}

#[test]
fn the_run_in_the_group() {
    let (Some(group), Some(folder)) = (env::var_os(GROUP), env::var_os(FOLDER)) else { return };
    fs::write(Path::new(&group).join("cgroup.procs"), std::process::id().to_string()).unwrap();
    let mut budget = None;
    let mut hear = |event: &Event| {
        if let Event::Plan(report) = event {
            budget = Some((report.memory_budget, report.budget_source));
        }
    };
    finetune(&settings(Path::new(&folder), "inside"), &Simd::new(1), 1, &mut hear).unwrap();
    let Some((Some(bytes), BudgetSource::Group { limit, held, cache })) = budget else {
        panic!("the budget is {budget:?}, not the group's");
    };
    assert_eq!((limit, bytes), (LIMIT, LIMIT - held - cache));
}
