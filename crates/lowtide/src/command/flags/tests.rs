//! Flags against settings: each has the other, and says the other's default.

use clap::{Arg, CommandFactory, Parser};

use super::*;
use crate::command::args::{Cli, Job};

const PATHS: [&str; 4] = ["--model", "m", "--data", "d"];

fn settings(flags: &[&str]) -> Settings {
    let line = ["lowtide", "plan"].iter().chain(&PATHS).chain(flags);
    match Cli::try_parse_from(line).unwrap_or_else(|error| panic!("{error}")).job {
        Job::Plan(args) => args.run.flags.over(Settings::default()),
        job => panic!("{job:?}"),
    }
}

fn refused(flags: &[&str]) -> String {
    let line = ["lowtide", "plan"].iter().chain(flags);
    let error = Cli::try_parse_from(line).expect_err("a usage error");
    assert_eq!(error.exit_code(), 2);
    error.to_string()
}

fn flag(name: &str) -> Option<Arg> {
    let mut cli = Cli::command();
    cli.build();
    let plan = cli.find_subcommand("plan").expect("there is a plan command");
    plan.get_arguments().find(|arg| arg.get_long() == Some(name)).cloned()
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_setting_has_a_flag_that_says_its_default() {
    let defaults = Settings::default().to_toml();
    let defaults: toml::Table = defaults.parse().unwrap();
    for (key, value) in defaults {
        let arg = flag(&key).unwrap_or_else(|| panic!("no flag --{key}"));
        let help = arg.get_help().expect("every flag has help").to_string();
        let shown = match &value {
            toml::Value::String(text) => format!("[default: {text}]"),
            toml::Value::Float(number) => format!("[default: {number}]"),
            other => format!("[default: {other}]"),
        };
        let required = ["model", "data"].contains(&key.as_str());
        // Of the two flags of a switch, one says that it is the default.
        let no = flag(&format!("no-{key}")).and_then(|arg| arg.get_help().cloned());
        let no = no.is_some_and(|help| help.to_string().ends_with("[default]"));
        let switch =
            value.as_bool().is_some_and(|on| if on { help.ends_with("[default]") } else { no });
        assert!(required || switch || help.contains(&shown), "--{key}: `{help}`, want {shown}");
    }
}

#[test]
fn optional_settings_have_flags_too() {
    let given = settings(&[
        "--max-steps=7",
        "--warmup-steps=2",
        "--memory-budget=1.5GB",
        "--init-adapter=from",
        "--pause-file=wait",
        "--trace=trace.json",
        "--tensorboard=board",
        "--mezo-eps=0.5",
        "--partial-blocks=3",
        "--decay-ratio=0.2",
        "--beta1=0.8",
        "--lr-pattern=lora_B=4",
        "--weight-decay-pattern=lora_A=0",
        "--adam-beta2=0.95",
        "--eps=1e-6",
        "--rank-pattern=layers.0.*=2",
        "--adapter-budget=96KiB",
        "--adaptive-rank=5",
        "--rank-pattern=q=k=0",
        "--alpha-pattern=q_proj=0.5",
    ]);
    let expected = Settings {
        model: "m".into(),
        data: "d".into(),
        max_steps: Some(7),
        warmup_steps: Some(2),
        memory_budget: Some("1.5GB".into()),
        init_adapter: Some("from".into()),
        pause_file: Some("wait".into()),
        trace: Some("trace.json".into()),
        tensorboard: Some("board".into()),
        mezo_eps: Some(0.5),
        partial_blocks: Some(3),
        decay_ratio: Some(0.2),
        beta1: Some(0.8),
        lr_pattern: PatternTable(vec![("lora_B".into(), 4.0)]),
        weight_decay_pattern: PatternTable(vec![("lora_A".into(), 0.0)]),
        beta2: Some(0.95),
        eps: Some(1e-6),
        adapter_budget: Some("96KiB".into()),
        adaptive_rank: Some(5),
        rank_pattern: PatternTable(vec![("layers.0.*".into(), 2), ("q=k".into(), 0)]),
        alpha_pattern: PatternTable(vec![("q_proj".into(), 0.5)]),
        ..Settings::default()
    };
    assert_eq!(given, expected);
}

#[test]
fn tensorboard_has_a_folder_of_its_own() {
    let folder = |flags: &[&str]| settings(flags).tensorboard;
    assert_eq!(folder(&[]), None);
    assert_eq!(folder(&["--tensorboard"]), Some("adapter/runs".into()));
    assert_eq!(folder(&["--tensorboard", "--output=o"]), Some("o/runs".into()));
    assert_eq!(folder(&["--tensorboard", "here", "--seed=1"]), Some("here".into()));
}

#[test]
fn flags_not_given_leave_settings_alone() {
    let before = Settings { rank: 3, lr: 0.5, seed: 9, mask_prompt: false, ..Settings::default() };
    let Job::Plan(args) = Cli::parse_from(["lowtide", "plan", "-m=m", "-d=d", "--lr=1"]).job else {
        panic!("plan")
    };
    let expected = Settings { model: "m".into(), data: "d".into(), lr: 1.0, ..before.clone() };
    assert_eq!(args.run.flags.over(before), expected);
}

#[test]
fn a_share_takes_the_place_of_a_number_and_the_other_way_round() {
    let over = |flag, before: Settings| {
        let Job::Plan(args) = Cli::parse_from(["lowtide", "plan", "-m=m", "-d=d", flag]).job else {
            panic!("plan")
        };
        let after = args.run.flags.over(before);
        (after.warmup_steps, after.warmup_ratio)
    };
    let steps = Settings { warmup_steps: Some(9), ..Settings::default() };
    assert_eq!(over("--warmup-ratio=0.5", steps), (None, Some(0.5)));
    let ratio = Settings { warmup_ratio: Some(0.5), ..Settings::default() };
    assert_eq!(over("--warmup-steps=9", ratio), (Some(9), None));
    assert!(refused(&["-m=m", "-d=d", "--decay-ratio=1", "--decay-steps=1"]).contains("cannot"));
}

#[test]
fn names_of_other_trainers_are_understood() {
    let ours = settings(&[
        "--output=o",
        "--method=lora",
        "--rank=4",
        "--alpha=8",
        "--dropout=0.1",
        "--target-modules=q_proj",
        "--max-steps=5",
        "--grad-accum=2",
        "--max-seq-len=64",
        "--lr=0.01",
        "--optimizer=sgd",
        "--mask-prompt",
    ]);
    let theirs = settings(&[
        "--adapter-path=o",
        "--peft-type=lora",
        "--lora-rank=4",
        "--lora-alpha=8",
        "--lora-dropout=0.1",
        "--lora-target-modules=q_proj",
        "--iters=5",
        "--gradient-accumulation-steps=2",
        "--max-length=64",
        "--learning-rate=0.01",
        "--optim=sgd",
        "--completion-only",
    ]);
    assert_eq!(ours, theirs);
    let more = settings(&["--output-dir=o", "--fine-tune-type=lora", "--lora-r=4"]);
    assert_eq!((more.output, more.rank), ("o".into(), 4));
    assert_eq!(settings(&["--max-seq-length=64"]).max_seq_len, 64);
    let hf = settings(&["--lr-scheduler-type=warmup_stable_decay", "--warmup-ratio=0.1"]);
    assert_eq!((hf.lr_scheduler.as_str(), hf.warmup_ratio), ("warmup_stable_decay", Some(0.1)));
    assert_eq!(settings(&["--lora-plus-ratio=16"]).lora_plus_ratio, 16.0);
}

#[test]
fn the_last_word_on_the_prompt_mask_counts() {
    assert!(settings(&[]).mask_prompt);
    assert!(!settings(&["--no-mask-prompt"]).mask_prompt);
    assert!(settings(&["--no-mask-prompt", "--mask-prompt"]).mask_prompt);
    assert!(!settings(&["--mask-prompt", "--no-mask-prompt"]).mask_prompt);
}

#[test]
fn a_switch_takes_an_optional_value() {
    assert!(!settings(&[]).use_rslora);
    assert!(settings(&["--use-rslora"]).use_rslora);
    assert!(!settings(&["--use-rslora=false"]).use_rslora);
}

#[test]
fn bad_usage_is_worded() {
    assert!(refused(&["--model=m"]).contains("--data <PATH>"));
    let known = ["--model=m", "--data=d"];
    let with = |flag| refused(&[known[0], known[1], flag]);
    assert!(with("--memory-budget=12 parsecs").contains("`12 parsecs` is no size"));
    assert!(with("--optimizer=adam").contains("adamw, adamw8bit, lion, lion8bit, sgd"));
    assert!(with("--lr-scheduler=step").contains("constant, linear, cosine, wsd, inverse-sqrt"));
    assert!(with("--checkpoint-store=f16").contains("auto, f32, bf16, int8, file"));
    assert!(with("--threads=0").contains("1..=1024"));
    assert!(with("--rnak=8").contains("--rank"));
}
