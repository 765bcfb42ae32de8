//! Rests and pauses change when a run works, and nothing of what it computes.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use lowtide_simd::Simd;
use lowtide_testkit::tiny::TinyLlama;
use lowtide_train::{Control, Event, PauseCause, Settings, Summary, finetune_until};

use crate::support::Home;

const LENGTHS: [usize; 4] = [9, 12, 7, 10];

/// The adapter that a run writes, and what else it says; `hear` may set the pause and the stop.
fn adapter(
    settings: &Settings,
    mut hear: impl FnMut(&Event, Control<'_>),
) -> (Option<Vec<u8>>, Summary) {
    let (stop, pause) = (AtomicBool::new(false), AtomicUsize::new(0));
    let control = Control { stop: &stop, pause: &pause };
    let mut on_event = |event: &Event| hear(event, control);
    let summary = finetune_until(settings, &Simd::new(1), 1, &mut on_event, control).unwrap();
    let file = std::fs::read(settings.output.join("adapter_model.safetensors")).ok();
    (file, summary)
}

#[test]
fn a_pause_and_rests_change_no_bit() {
    let home = Home::new(&TinyLlama::default());
    let plain = Settings { max_steps: Some(5), ..home.settings(&LENGTHS) };
    let (expected, summary) = adapter(&plain, |_, _| ());
    assert_eq!((summary.seconds_paused, summary.seconds_rested), (0.0, 0.0));
    let paced = Settings { duty: 0.9, output: home.path("paced"), ..plain };
    let (saved, paused) = (Cell::new(0), Cell::new(0));
    let (got, summary) = adapter(&paced, |event, control| match event {
        Event::Step(step) if step.step == 2 => control.pause.store(1, Ordering::Relaxed),
        Event::Saved { step, .. } => saved.set(*step),
        Event::Paused { step, cause } => {
            assert_eq!((*step, saved.get(), cause), (2, 2, &PauseCause::Signal));
            paused.set(paused.get() + 1);
            control.pause.store(0, Ordering::Relaxed);
        }
        _ => {}
    });
    assert_eq!((got.is_some(), paused.get(), summary.steps), (true, 1, 5));
    assert!(got == expected, "bits differ");
    assert!(summary.seconds_rested > 0.0);
}

#[test]
fn a_run_that_is_stopped_in_a_pause_has_saved() {
    let home = Home::new(&TinyLlama::default());
    let settings = Settings { max_steps: Some(5), ..home.settings(&LENGTHS) };
    let (file, summary) = adapter(&settings, |event, control| match event {
        Event::Step(step) if step.step == 3 => control.pause.store(1, Ordering::Relaxed),
        Event::Paused { .. } => control.stop.store(true, Ordering::Relaxed),
        Event::Continued { .. } => panic!("it does not go on"),
        _ => {}
    });
    assert_eq!((file.is_some(), summary.steps, summary.interrupted), (true, 3, true));
}
