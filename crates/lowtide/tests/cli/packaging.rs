//! Completions and man pages know the commands and flags that help knows.

use std::fs;

use crate::place::{Place, files};

#[test]
fn every_shell_gets_a_script_with_commands_and_flags() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = place.lowtide(&format!("completions {shell}")).done();
        for word in ["finetune", "inspect", "memory-budget", "adamw8bit", "precision", "isa"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let error = place.lowtide("completions cmd").failed(2);
    assert!(error.contains("[possible values: bash, elvish, fish, powershell, zsh]"), "{error}");
}

#[test]
fn man_pages_are_written_for_every_command() {
    let place = Place::new();
    assert_eq!(place.lowtide("man pages").done(), "");
    let names: Vec<_> = files(&place.path("pages"))
        .iter()
        .map(|(path, _)| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    for name in ["lowtide.1", "lowtide-finetune.1", "lowtide-plan.1", "lowtide-inspect.1"] {
        assert!(names.contains(&name.to_owned()), "{name}: {names:?}");
    }
    assert!(!names.iter().any(|name| name.contains("man") || name.contains("help")), "{names:?}");
    let page = fs::read_to_string(place.path("pages/lowtide-finetune.1")).unwrap();
    for part in [
        ".TH lowtide-finetune 1 ",
        "lowtide finetune",
        "memory\\-budget",
        "\\-\\-isa",
        "Exit codes",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let page = fs::read_to_string(place.path("pages/lowtide.1")).unwrap();
    assert!(page.contains("lowtide\\-finetune(1)"), "{page}");
    let error = place.lowtide("man data.jsonl").failed(1);
    assert!(error.starts_with("error: data.jsonl: cannot create the folder: "), "{error}");
}
