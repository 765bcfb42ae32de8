//! Runs that go on from the command line.

use std::fs;

use crate::place::{Place, files};

const RUN: &str = "finetune --model model --data data.jsonl --max-steps 8 --samples 0";

#[test]
fn a_folder_is_enough_to_go_on() {
    let place = Place::new();
    place.lowtide(&format!("{RUN} --output through")).done();
    place.lowtide(&format!("{RUN} --output cut --save-every 3")).done();
    // As if the process had ended right after its second save.
    let out = place.lowtide("finetune --resume cut").done();
    assert!(out.contains("goes on from cut: 8 of 8 updates were made\n"), "{out}");
    let weights = |of: &str| fs::read(place.path(of).join("adapter_model.safetensors")).unwrap();
    assert!(weights("through") == weights("cut"));
    // Into another folder, the one that was resumed stays as it is.
    place.lowtide("finetune --resume cut --output copy").done();
    assert!(weights("copy") == weights("cut"));
    let lines = |of: &str| fs::read_to_string(place.path(of).join("metrics.jsonl")).unwrap();
    assert_eq!(lines("copy"), lines("cut"));
}

/// Where a service manager starts it, say, and with the backend that the run was begun with.
#[test]
fn a_folder_is_enough_from_anywhere() {
    let place = Place::new();
    let shown = "--tensorboard --trace trace.json --val-split 0.25";
    let line = format!("{RUN} --output cut --save-every 3 --backend ndarray {shown}");
    place.lowtide(&line).done();
    let before = [files(&place.path("cut")), files(&place.path("cut/runs"))];
    let trace = fs::read(place.path("trace.json")).unwrap();
    let [cut, copy] = ["cut", "copy"].map(|name| place.path(name).display().to_string());
    fs::create_dir(place.path("elsewhere")).unwrap();
    let line = format!("finetune --resume {cut} --output {copy}");
    place.lowtide_in("elsewhere", &line).done();
    assert_eq!(place.json("copy/summary.json")["backend"], "ndarray/matrixmultiply");
    let weights = |of: &str| fs::read(place.path(of).join("adapter_model.safetensors")).unwrap();
    assert!(weights("copy") == weights("cut"));
    // What shows the run goes with it, and the folder it came from is as it was.
    assert_eq!(files(&place.path("copy/runs")).len(), 1);
    assert_eq!([files(&place.path("cut")), files(&place.path("cut/runs"))], before);
    assert!(fs::read(place.path("trace.json")).unwrap() == trace);
}

#[test]
fn flags_beside_a_save_must_be_its_own() {
    let place = Place::new();
    place.lowtide(&format!("{RUN} --output cut")).done();
    let before = files(&place.path("cut"));
    let error = place.lowtide("finetune --resume cut --rank 3").failed(1);
    assert!(error.contains("`rank` is 3, and the run that was saved had 8"), "{error}");
    fs::write(place.path("other.toml"), "lr = 0.5\noutput = 'cut'\n").unwrap();
    let error = place.lowtide("finetune --resume --config other.toml").failed(1);
    assert!(error.contains("`lr` is 0.5, and the run that was saved had 0.0002"), "{error}");
    for (flags, says) in [
        ("--preset phone", "--preset is phone, expected none beside a folder to resume"),
        (
            "--init-adapter other",
            "--init-adapter is other, expected none beside a folder to resume",
        ),
    ] {
        let error = place.lowtide(&format!("finetune --resume cut {flags}")).failed(2);
        assert!(error.starts_with(&format!("error: {says}")), "{error}");
    }
    assert_eq!(files(&place.path("cut")), before);
    place.lowtide("plan --resume cut").done();
    // The same line begins a run and goes on with it.
    let line = format!("{RUN} --output new --preset pi --init-adapter cut --resume");
    place.lowtide(&line).done();
    place.lowtide(&line).done();
}

#[test]
fn without_a_save_a_run_begins_where_nothing_is_named() {
    let place = Place::new();
    let error = place.lowtide("finetune --resume nowhere").failed(1);
    assert!(error.contains("nowhere: there is no save to go on from"), "{error}");
    let error = place.lowtide("finetune --resume --output nowhere").failed(1);
    assert!(error.contains("nowhere: there is no save to go on from"), "{error}");
    let out = place.lowtide(&format!("{RUN} --output new --resume")).done();
    assert!(out.starts_with("no save in new yet: the run begins\n"), "{out}");
    let error = place.lowtide("finetune --resume-anyway").failed(2);
    assert!(error.contains("--resume"), "{error}");
}

/// A scratch folder without room: files cannot grow beyond a few KiB.
#[cfg(target_os = "linux")]
#[test]
fn a_full_scratch_folder_is_named_with_its_flag_and_purpose() {
    use std::process::Command;

    let place = Place::new();
    fs::create_dir(place.path("sc")).unwrap();
    let line = format!(
        "trap '' XFSZ; ulimit -f 8; exec {} {RUN} --scratch-dir sc --quiet",
        env!("CARGO_BIN_EXE_lowtide")
    );
    let mut shell = Command::new("bash");
    let ran = shell.args(["-c", &line]).current_dir(place.root()).output().unwrap();
    let error = String::from_utf8(ran.stderr).unwrap();
    assert_eq!(ran.status.code(), Some(1), "{error}");
    let says = "error: --scratch-dir sc: no temporary file for the last good state can be written \
                there: ";
    assert!(error.starts_with(says), "{error}");
}

/// A disk that is full while a run saves: files cannot grow beyond a few KiB.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_keeps_the_save_before() {
    use std::process::Command;

    let place = Place::new();
    // Without a file for good states, which the limit below would not let grow either.
    place.lowtide(&format!("{RUN} --output cut --max-rollbacks 0")).done();
    let now = || [files(&place.path("cut")), files(&place.path("cut/checkpoint"))];
    let before = now();
    // The signal that tells of it is ignored, so that a write fails as it does on a full disk.
    let line = format!(
        "trap '' XFSZ; ulimit -f 8; exec {} finetune --resume cut --quiet",
        env!("CARGO_BIN_EXE_lowtide")
    );
    let mut shell = Command::new("bash");
    let ran = shell.args(["-c", &line]).current_dir(place.root()).output().unwrap();
    let error = String::from_utf8(ran.stderr).unwrap();
    assert_eq!(ran.status.code(), Some(1), "{error}");
    assert!(error.contains("cut/checkpoint/state.safetensors: cannot write: "), "{error}");
    let left = "8 updates are saved in cut, and `lowtide finetune --resume cut` goes on from there";
    assert!(error.contains(left), "{error}");
    assert_eq!(now(), before);
    place.lowtide("finetune --resume cut").done();
}
