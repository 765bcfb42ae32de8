//! Runs that are killed at any instant, and go on.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use lowtide::train::SavedRun;
use lowtide_testkit::rng::Rng;
use lowtide_testkit::tiny::{TinyLlama, tiny_llama_folder};

use crate::place::Place;

/// A run that saves after every update, into `output`; the same line begins it and goes on.
fn run(place: &Place, output: &str, steps: u64) -> Child {
    let line = format!(
        "finetune --model model --data data.jsonl --output {output} --max-steps {steps} \
         --save-every 1 --report-every 1 --dropout 0.1 --rank 4 --samples 0 --threads 1 --quiet \
         --resume"
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_lowtide"));
    let command = command.args(line.split_whitespace()).current_dir(place.root());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn completed(run: Child) {
    let output = run.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Kills a run `kills` times, lets it end, and compares it with one that nobody disturbed.
fn survives(kills: usize, steps: u64) {
    let place = Place::new();
    let start = Instant::now();
    completed(run(&place, "through", steps));
    // About as long as it takes to start and to make a few updates.
    let span = start.elapsed().as_secs_f64() / steps as f64 * 4.0 + 0.1;
    let mut rng = Rng::named(0, "kills");
    let (mut killed, mut last) = (0, 0);
    while killed < kills {
        let mut child = run(&place, "cut", steps);
        sleep(Duration::from_secs_f64(span * rng.uniform_f64()));
        child.kill().unwrap();
        let ended = child.wait().unwrap();
        killed += usize::from(!ended.success());
        // A save is whole or not there yet, and nothing that was saved is lost.
        let saved = SavedRun::find(&place.path("cut")).unwrap();
        let step = saved.map_or(0, |run| run.step());
        assert!(step >= last, "update {step} after update {last}");
        last = step;
    }
    completed(run(&place, "cut", steps));
    let same = |name: &str| {
        let [through, cut] =
            ["through", "cut"].map(|of| fs::read(place.path(of).join(name)).unwrap());
        assert!(through == cut, "{name} differs after {kills} kills, {last} updates saved");
    };
    ["adapter_model.safetensors", "adapter_config.json"].into_iter().for_each(same);
    let lines = |of: &str| fs::read_to_string(place.path(of).join("metrics.jsonl")).unwrap();
    assert_eq!(lines("cut").lines().count() as u64, steps);
    // What the killed left behind under temporary names was cleared away.
    let names = fs::read_dir(place.path("cut")).unwrap();
    let stray =
        names.filter(|name| name.as_ref().unwrap().file_name().to_string_lossy().ends_with(".tmp"));
    assert_eq!(stray.count(), 0);
}

#[test]
fn a_run_survives_being_killed() {
    survives(8, 20);
}

/// `cargo test --release -p lowtide --test cli -- --ignored two_hundred`
#[test]
#[ignore = "takes a minute"]
fn a_run_survives_two_hundred_kills() {
    survives(200, 300);
}

/// Begins a run of many updates on `model`, cuts its weights `after` a line of standard output in
/// which `word` is, and returns the exit code and what it said.
#[cfg(target_os = "linux")]
fn cut(place: &Place, output: &str, word: &str, after: Duration) -> (Option<i32>, String) {
    use std::io::{BufRead, BufReader, Read};

    let line = format!(
        "finetune --model model --data data.jsonl --output {output} --max-steps 100000 \
         --save-every 2 --batch-size 64 --threads 2 --samples 0 --json"
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_lowtide"));
    let command = command.args(line.split_whitespace()).current_dir(place.root());
    let mut run = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut whole = true;
    for line in BufReader::new(run.stdout.take().unwrap()).lines().map_while(Result::ok) {
        if whole && line.contains(word) {
            sleep(after);
            let weights = place.path("model/model.safetensors");
            fs::File::options().write(true).open(weights).unwrap().set_len(4096).unwrap();
            whole = false;
        }
    }
    let mut told = String::new();
    run.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    (run.wait().unwrap().code(), told)
}

/// Cuts the weights under runs at many instants, while two threads read them: each ends with a
/// message and with what it had saved.
#[cfg(target_os = "linux")]
#[test]
fn a_base_that_is_cut_while_in_use_ends_the_run_and_keeps_its_saves() {
    let place = Place::new();
    // Some megabytes and some work, so that most cuts fall into the middle of an update.
    let model = TinyLlama { hidden: 256, layers: 4, intermediate: 512, ..TinyLlama::default() };
    tiny_llama_folder(&place.path("model"), &model);
    let weights = place.path("model/model.safetensors");
    let whole = fs::read(&weights).unwrap();
    for tries in 0..8 {
        // While it plans, and during updates.
        let (word, saved) = match tries {
            0 => ("\"event\":\"data\"", 0),
            1 => ("\"event\":\"plan\"", 0),
            _ => ("\"event\":\"step\",\"step\":3,", 2),
        };
        let (output, after) = (format!("adapter{tries}"), Duration::from_millis(13 * tries));
        let (code, told) = cut(&place, &output, word, after);
        assert_eq!(code, Some(1), "try {tries}: {told}");
        assert!(told.starts_with("error: model") && told.contains("cut"), "try {tries}: {told}");
        assert_eq!(told.matches("error: ").count(), 1, "try {tries}: {told}");
        fs::write(&weights, &whole).unwrap();
        let step = SavedRun::find(&place.path(&output)).unwrap().map_or(0, |run| run.step());
        assert!(step >= saved, "try {tries}: {step}");
    }
    // With its base as it was, a run goes on.
    let out = place.lowtide("finetune --resume adapter7 --max-steps 100000 --dry-run").done();
    assert!(out.contains("max-steps = 100000"), "{out}");
}
