//! `generate` and `chat` as a user meets them.

use serde_json::Value;

use crate::place::{Place, Ran};

fn place() -> Place {
    let place = Place::new();
    place.speaker("speaker", true);
    place.speaker("plain", false);
    place
}

fn generate(place: &Place, flags: &str) -> Ran {
    let line =
        format!("generate --model speaker --threads 2 --prompt hello --max-tokens 12 {flags}");
    place.lowtide(&line)
}

#[test]
fn an_answer_is_the_same_wherever_the_prompt_comes_from() {
    let place = place();
    let want = generate(&place, "--temperature 0").done();
    assert!(want.ends_with('\n'));
    std::fs::write(place.path("prompt.txt"), "hello\n").unwrap();
    let words = "generate -m speaker --max-new-tokens 12 --temp 0";
    let words: Vec<_> = words.split(' ').collect();
    assert_eq!(place.hearing(&words, "hello\n").done(), want);
    let from_file = [&words[..], &["--prompt-file", "prompt.txt", "--quiet"]].concat();
    assert_eq!(place.hearing(&from_file, "").done(), want);
    for threads in [1, 3] {
        let sampled = |seed| {
            let flags = format!("--temperature 2 --top-k 0 --seed {seed}");
            let line = format!("generate -m speaker -p hello {flags} --threads {threads}");
            place.lowtide(&line).done()
        };
        assert_eq!(
            sampled(1),
            place
                .lowtide(
                    "generate -m speaker -p hello --temperature 2 --top-k 0 --seed 1 --threads 2"
                )
                .done()
        );
        assert_ne!(sampled(1), sampled(2));
    }
    let raw = generate(&place, "--temperature 0 --raw --json").done();
    let raw: Value = serde_json::from_str(&raw).unwrap();
    assert_eq!(raw["prompt_tokens"], 5);
}

#[test]
fn json_is_one_object() {
    let place = place();
    let answer: Value = serde_json::from_str(&generate(&place, "--json").done()).unwrap();
    let keys: Vec<_> = answer.as_object().unwrap().keys().map(String::as_str).collect();
    let want = ["prompt_tokens", "tokens", "text", "stop", "seconds", "tokens_per_second"];
    assert_eq!(keys, want);
    // `<|start|>user: hello<|end|><|start|>assistant: `
    assert_eq!(answer["prompt_tokens"], 1 + 11 + 2 + 11);
    let full = generate(&place, "--json --context 30 --temperature 0").done();
    let full: Value = serde_json::from_str(&full).unwrap();
    assert!(full["stop"] == "context" || full["stop"] == "end", "{full}");
}

#[test]
fn an_adapter_speaks_too_and_a_budget_is_kept() {
    let place = place();
    std::fs::write(place.path("say.jsonl"), "{\"text\": \"hello hello hello\"}\n").unwrap();
    let line = "finetune -m speaker -d say.jsonl -o learned --max-steps 12 --lr 0.02";
    place.lowtide(line).done();
    let bare = generate(&place, "--temperature 0 --raw").done();
    let learned = generate(&place, "--temperature 0 --raw --adapter learned").done();
    assert_ne!(bare, learned);
    let error = generate(&place, "--memory-budget 10KiB").failed(3);
    let (_, named) = error.split_once("use --memory-budget ").expect("a budget is named");
    let (named, _) = named.split_once(';').unwrap();
    let named = named.strip_suffix(" or more").unwrap();
    generate(&place, &format!("--memory-budget {named}")).done();
}

#[test]
fn what_is_refused_is_told_with_what_to_do() {
    let place = place();
    for (flags, says) in [
        ("--temperature -1", "--temperature is -1, expected a finite number, 0 or more"),
        ("--top-p 1.5", "--top-p is 1.5, expected a number above 0, at most 1"),
        ("--top-p 0", "--top-p is 0"),
        ("--top-k -3", "--top-k"),
        ("--repetition-penalty 0", "--repetition-penalty is 0, expected "),
        ("--max-tokens 0", "--max-tokens"),
        ("--context 0", "--context is 0"),
        ("--context 4000", "--context is 4000, expected 1 to 2048"),
        ("--raw --system x", "--system"),
        ("--prompt-file x", "--prompt"),
    ] {
        let line = format!("generate --model speaker --prompt hello {flags}");
        let error = place.lowtide(&line).failed(2);
        assert!(error.contains(says), "{flags}: {error}");
    }
    let error = place.lowtide("generate --model speaker").failed(2);
    assert!(error.contains("--prompt is empty, expected a text"), "{error}");
    let error = generate(&place, "--context 8").failed(1);
    assert!(error.contains("25 tokens and the context holds 8\nuse a larger --context"), "{error}");
    let error = place.lowtide("generate --model model --prompt hello").failed(1);
    assert!(error.contains("no tokenizer in it"), "{error}");
    for line in ["chat --model plain", "generate --model plain --prompt hello --system x"] {
        let error = place.lowtide(line).failed(1);
        assert!(error.contains("plain: no chat template in it"), "{error}");
        assert!(error.contains("give one with --chat-template, or continue plain"), "{error}");
    }
    std::fs::write(place.path("bad.jinja"), "{% if %}").unwrap();
    for (file, says) in [("bad.jinja", "bad.jinja: chat template, line 1"), ("none", "none: ")] {
        let line = format!("generate -m plain -p hello --chat-template {file}");
        let error = place.lowtide(&line).failed(1);
        assert!(error.contains(says), "{error}");
    }
    place.lowtide("generate --model plain --prompt hello --max-tokens 2").done();
}

#[test]
fn a_template_may_be_given() {
    let place = place();
    let config = place.json("speaker/tokenizer_config.json");
    let template = config["chat_template"].as_str().unwrap();
    std::fs::write(place.path("turns.jinja"), template).unwrap();
    let flags = "-p hello --max-tokens 12 --temperature 0 --system short";
    let own = place.lowtide(&format!("generate -m speaker {flags}")).done();
    let given = place.lowtide(&format!("generate -m plain {flags} --chat-template turns.jinja"));
    assert_eq!(given.done(), own);
    std::fs::write(place.path("other.jinja"), "{{ messages[0].content }}").unwrap();
    let line = "generate -m speaker -p hello --json --chat-template other.jinja";
    let other: Value = serde_json::from_str(&place.lowtide(line).done()).unwrap();
    assert_eq!(other["prompt_tokens"], 5);
}

/// Answers that take longer than anyone waits are stopped after their first words.
#[cfg(unix)]
#[test]
fn ctrl_c_ends_an_answer_and_not_the_conversation() {
    use std::io::{BufReader, Read, Write};
    use std::process::{Command, Stdio};

    use lowtide_testkit::text::byte_tokenizer_files;
    use lowtide_testkit::tiny::{TinyLlama, tiny_llama_folder};

    const TOKENS: usize = 1900;
    let place = Place::new();
    let shape = TinyLlama {
        hidden: 256,
        layers: 8,
        head_dim: 64,
        intermediate: 768,
        ..TinyLlama::default()
    };
    tiny_llama_folder(&place.path("slow"), &shape);
    byte_tokenizer_files(&place.path("slow"), false);
    // Bytes by chance, none of which ends an answer.
    let mut config = place.json("slow/config.json");
    config["eos_token_id"] = Value::Null;
    std::fs::write(place.path("slow/config.json"), config.to_string()).unwrap();
    std::fs::write(place.path("words.jinja"), "{{ messages[0].content }}").unwrap();
    let line = "chat -m slow --chat-template words.jinja --temperature 100 --top-k 0 --top-p 1 \
                --threads 1 --max-tokens";
    let mut run = Command::new(env!("CARGO_BIN_EXE_lowtide"))
        .args(line.split_whitespace())
        .arg(TOKENS.to_string())
        .current_dir(place.root())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut to, mut from) = (run.stdin.take().unwrap(), run.stdout.take().unwrap());
    let mut from = BufReader::new(&mut from).bytes().map(Result::unwrap);
    for _ in 0..2 {
        to.write_all(b"hello\n").unwrap();
        let mut heard = vec![from.next().unwrap()];
        let id = run.id().to_string();
        assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
        // What is typed after an answer is heard.
        to.write_all(b"/help\n/reset\n").unwrap();
        let help = b"Ctrl-C stops an answer\n";
        while !heard.ends_with(help) {
            heard.push(from.next().unwrap());
        }
        assert!(heard.len() < TOKENS / 2, "{} bytes", heard.len());
    }
    to.write_all(b"/exit\n").unwrap();
    let mut told = String::new();
    run.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert_eq!((run.wait().unwrap().code(), told.as_str()), (Some(0), ""));
}

#[test]
fn a_conversation_goes_line_by_line() {
    let place = place();
    let words: Vec<_> =
        "chat -m speaker --temperature 0 --max-tokens 4 --json".split(' ').collect();
    let input = "hello\nand\n/reset\nhello\n/system short\nhello\n/exit\nnever\n";
    let out = place.hearing(&words, input).done();
    let answers: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), 4, "{out}");
    assert_eq!(answers[0]["text"], answers[2]["text"], "/reset forgets");
    let tokens = |n: usize| answers[n]["prompt_tokens"].as_u64().unwrap();
    assert!(tokens(1) > tokens(0) && tokens(2) == tokens(0) && tokens(3) > tokens(0));

    let words: Vec<_> = "chat -m speaker --temperature 0 --max-tokens 4".split(' ').collect();
    let out = place.hearing(&words, "/help\n/what\nhello\n").done();
    assert!(out.starts_with("/reset "), "{out}");
    assert!(out.contains("/what is no command; /help lists them"), "{out}");
    let error = place.hearing(&[&words[..], &["--context", "30"]].concat(), "hello\nagain\n");
    assert!(error.failed(1).contains("use a larger --context"));
}
