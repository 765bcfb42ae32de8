//! Words and exit codes of failures.

use lowtide::adapter::BadValue;
use lowtide::train::{BudgetSource, parse_bytes};

use super::*;

fn training(error: impl Into<TrainError>) -> Failure {
    Failure::training(error.into(), &Settings::default())
}

fn no_plan(smallest: u64) -> TrainError {
    let from = BudgetSource::Asked;
    TrainError::NoPlanFits { budget: 1 << 20, smallest, policy: "block".into(), from }
}

#[test]
fn the_budget_that_is_named_is_enough_and_hardly_more() {
    for smallest in [1, 1023, 1 << 20, (1 << 20) + 1, 42_257_408, 42_257_613, 3 << 40] {
        let text = training(no_plan(smallest)).to_string();
        let (_, rest) = text.split_once("--memory-budget ").unwrap();
        let named = parse_bytes(rest.split(' ').next().unwrap()).unwrap();
        let slack = (1 << 20) / 10 + 1;
        assert!((smallest..=smallest + slack).contains(&named), "{smallest}: {named}");
    }
}

#[test]
fn over_budget_says_what_is_held_and_what_to_do() {
    let of_training = training(no_plan(42_257_408));
    assert_eq!(of_training.exit_code(), 3);
    assert_eq!(
        of_training.to_string(),
        "no plan fits the memory budget of 1.00 MiB (1,048,576 bytes): the leanest, policy \
         `block`, holds 42,257,408 bytes\nuse --memory-budget 40.3MiB or more; a shorter \
         --max-seq-len or a smaller --batch-size holds less, and so does training with a \
         smaller --rank or fewer --layers"
    );
    let store = Settings { checkpointing: "store".into(), ..Settings::default() };
    let of_store = Failure::training(no_plan(1), &store).to_string();
    assert!(of_store.contains("or more; --checkpointing auto or block may need less; a shorter"));

    let of_evaluation = Failure::Evaluation(no_plan(42_257_408).into());
    assert_eq!(of_evaluation.exit_code(), 3);
    assert_eq!(
        of_evaluation.to_string(),
        "no plan fits the memory budget of 1.00 MiB (1,048,576 bytes): the evaluation holds \
         42,257,408 bytes\nuse --memory-budget 40.3MiB or more; a shorter --max-seq-len or a \
         smaller --batch-size holds less"
    );
}

#[test]
fn a_budget_that_nobody_gave_is_explained() {
    let from = BudgetSource::Group { limit: 96 << 20, held: 4 << 20, cache: 64 << 20 };
    let budget = 28 << 20;
    let error =
        || TrainError::NoPlanFits { budget, smallest: 1 << 30, policy: "sqrt".into(), from };
    let explained = "the budget is what the control group's limit of 96.00 MiB leaves beside 4.00 \
                     MiB held and 64.00 MiB for weights";
    for failure in [training(error()), Failure::Evaluation(error().into())] {
        assert!(failure.to_string().ends_with(explained), "{failure}");
    }
}

#[test]
fn causes_are_told_once() {
    #[derive(Debug)]
    struct Outer(&'static str, io::Error);
    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }
    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.1)
        }
    }
    struct Shown<'a>(&'a Outer);
    impl fmt::Display for Shown<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            chain(f, self.0)
        }
    }
    let cause = || io::Error::other("disk full");
    assert_eq!(Shown(&Outer("a.json", cause())).to_string(), "a.json: disk full");
    assert_eq!(Shown(&Outer("a: disk full", cause())).to_string(), "a: disk full");
}

#[test]
fn bad_settings_are_bad_usage_and_name_their_flag() {
    let bad = SettingsError::BadValue { field: "lr", found: "-1".into(), expected: "more" };
    let failure = Failure::from(bad.clone());
    assert_eq!(
        (failure.exit_code(), failure.to_string().as_str()),
        (2, "--lr is -1, expected more")
    );
    assert_eq!(training(bad).to_string(), failure.to_string());
    let layers = training(TargetsError::BadLayers { text: "first".into() });
    assert_eq!(layers.exit_code(), 2);
    assert!(layers.to_string().starts_with("--layers: layers `first`: expected"), "{layers}");
    let module = TargetsError::UnknownModule { name: "x".into(), known: vec![] };
    let module = training(module);
    assert_eq!(module.exit_code(), 2);
    assert!(module.to_string().starts_with("--target-modules: target module `x`"), "{module}");
    let more = training(TargetsError::TooManyLayers { asked: 9, count: 2 }).to_string();
    assert_eq!(more, "--layers: layers `last:9`: the model has 2");
    assert_eq!(Failure::from(io::Error::other("gone")).exit_code(), 1);
}

#[test]
fn what_a_method_refuses_is_laid_at_the_flag_and_not_at_the_base() {
    let bad = BadValue { method: "lora", field: "rank", value: 0.0, expected: "at least 1" };
    let wrapped = || {
        TrainError::from(RuntimeError::Model {
            path: "m.gguf".into(),
            source: ModelError::Adapter(BuildError::BadValue(bad)),
        })
    };
    for error in [TrainError::from(BuildError::BadValue(bad)), wrapped()] {
        let failure = training(error);
        assert_eq!(failure.exit_code(), 2);
        assert_eq!(failure.to_string(), "--rank is 0, expected at least 1");
    }
    // There it is the adapter's file that says so.
    let failure = Failure::Evaluation(wrapped().into());
    assert_eq!(failure.exit_code(), 1);
    let unknown = BuildError::UnknownMethod { name: "magic".into(), known: vec!["lora"] };
    let failure = training(unknown);
    assert_eq!(failure.exit_code(), 2);
    assert_eq!(failure.to_string(), "--method: unknown method `magic`, known: lora");
}

#[test]
fn what_sites_share_is_laid_at_the_budget_where_a_larger_one_helps() {
    let wrapped = |bytes: u64, most: u64| RuntimeError::Model {
        path: "m.gguf".into(),
        source: ModelError::Adapter(BuildError::TooLarge { method: "vera", bytes, most }),
    };
    let small = || wrapped(3 << 20, 1 << 20);
    let says = "no plan fits the memory budget of 1.00 MiB (1,048,576 bytes): what the sites of \
                vera share alone holds 3,145,728 bytes\nuse --memory-budget 3.0MiB or more; all \
                else that is held comes on top";
    let failure = training(small());
    assert_eq!((failure.exit_code(), failure.smallest_budget()), (3, Some(3 << 20)));
    assert_eq!(failure.to_string(), format!("{says}; a smaller --rank holds less"));
    for failure in [Failure::Evaluation(Box::new(small().into())), Failure::from(small())] {
        assert_eq!((failure.exit_code(), failure.to_string().as_str()), (3, says));
    }
    // Above the bound that holds without a budget, none is of use.
    let large = training(wrapped((1 << 30) + 4, 1 << 20));
    assert_eq!((large.exit_code(), large.smallest_budget()), (2, None));
    assert!(large.to_string().starts_with("--rank: vera needs 1073741828 bytes"), "{large}");
}

#[test]
fn probes_that_do_not_fit_name_their_budget() {
    let failure = training(TrainError::ProbesDoNotFit { budget: 1, smallest: 77 });
    assert_eq!((failure.exit_code(), failure.smallest_budget()), (3, Some(77)));
    assert!(failure.to_string().contains("use --memory-budget 77B or more"), "{failure}");
}

#[test]
fn an_output_that_cannot_be_written_names_its_flag() {
    let refused = |path: &str| {
        let source = io::ErrorKind::NotADirectory.into();
        training(TrainError::Output { path: path.into(), source })
    };
    let folder = refused("adapter");
    assert_eq!(folder.exit_code(), 1);
    assert_eq!(
        folder.to_string(),
        "--output adapter: no folder can be written there: not a directory"
    );
    assert_eq!(refused("adapter/a.json").to_string(), "adapter/a.json: not a directory");
}

#[test]
fn what_cannot_be_written_names_its_flag_and_purpose() {
    let settings = Settings {
        trace: Some("t/a.json".into()),
        tensorboard: Some("board".into()),
        scratch_dir: Some("sc".into()),
        ..Settings::default()
    };
    let told = |error| Failure::training(error, &settings).to_string();
    let output = |path: &str| {
        told(TrainError::Output { path: path.into(), source: io::ErrorKind::NotADirectory.into() })
    };
    let says = "--trace t/a.json: no file can be written there: not a directory";
    assert_eq!(output("t/a.json"), says);
    let says = "--tensorboard board: no folder can be written there: not a directory";
    assert_eq!(output("board"), says);
    let full = |folder: &str| TrainError::Scratch {
        folder: folder.into(),
        purpose: "the last good state",
        reason: "disk full".into(),
    };
    let says = "no temporary file for the last good state can be written there: disk full";
    assert_eq!(told(full("sc")), format!("--scratch-dir sc: {says}"));
    let unnamed = format!("/tmp: {says}\n--scratch-dir names another folder");
    assert_eq!(training(full("/tmp")).to_string(), unnamed);
}

#[test]
fn a_run_that_goes_on_is_told_of_a_larger_budget_only() {
    let settings = Settings {
        resume: Some("adapter".into()),
        checkpointing: "store".into(),
        ..Settings::default()
    };
    let told = Failure::training(no_plan(42_257_408), &settings).to_string();
    let end =
        "holds 42,257,408 bytes\nuse --memory-budget 40.3MiB or more; the save stays as it is";
    assert!(told.ends_with(end), "{told}");
}

#[test]
fn an_interrupted_run_says_what_was_saved() {
    let stopped = |updates| Failure::Interrupted { updates, of: 1200, output: "out".into() };
    assert_eq!(stopped(1).exit_code(), 130);
    assert_eq!(
        stopped(1).to_string(),
        "stopped after 1 of 1,200 updates: the adapter so far is in out, and \
         `lowtide finetune --resume out` goes on"
    );
    assert_eq!(stopped(0).to_string(), "stopped before the first update: no adapter was written");
}

#[test]
fn a_report_says_what_a_program_needs() {
    let json = |failure: Failure| serde_json::to_string(&failure.report()).unwrap();
    let said = json(training(no_plan(9)));
    assert!(
        said.starts_with(r#"{"event":"error","exit_code":3,"message":"no plan fits"#),
        "{said}"
    );
    assert!(said.ends_with(r#","smallest_budget":9}"#), "{said}");
    let said = json(Failure::from(io::Error::other("full")));
    let words = "cannot write to standard output: full";
    assert_eq!(said, format!(r#"{{"event":"error","exit_code":1,"message":"{words}"}}"#));
}
