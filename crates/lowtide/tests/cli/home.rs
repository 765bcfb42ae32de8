//! What the quickstart asks was never taught: its held-out prompts against the grammar from which
//! the base's pretraining and the home's examples were drawn.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// `tools/quickstart/grammar.json`.
#[derive(Deserialize)]
struct Grammar {
    domains: BTreeMap<String, Vec<String>>,
    /// Phrases by action and form.
    actions: BTreeMap<String, BTreeMap<String, Vec<String>>>,
    frames: Frames,
    /// Words that pretraining strews around commands.
    fillers: BTreeSet<String>,
    delays: BTreeMap<String, Option<u64>>,
    colors: Vec<String>,
    generic: Generic,
    home: Home,
}

#[derive(Deserialize)]
struct Frames {
    training: Vec<String>,
    held_out: Vec<String>,
}

#[derive(Deserialize)]
struct Generic {
    kinds: BTreeMap<String, Vec<String>>,
    rooms: Vec<String>,
    names: Vec<String>,
    nouns: Vec<String>,
}

#[derive(Deserialize)]
struct Home {
    devices: Vec<Device>,
}

#[derive(Deserialize)]
struct Device {
    id: String,
    says: Vec<String>,
    held_out: Vec<String>,
}

/// A line of the home's files.
#[derive(Debug, Deserialize)]
struct Example {
    prompt: String,
    completion: String,
    frame: String,
    action: String,
    device: String,
}

/// Both files, and the grammar they were drawn from.
struct Material {
    grammar: Grammar,
    taught: Vec<Example>,
    asked: Vec<Example>,
}

impl Material {
    fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let lines = |name: &str| -> Vec<Example> {
            let text = fs::read_to_string(root.join("assets/quickstart").join(name)).unwrap();
            text.lines().map(parsed).collect()
        };
        let grammar = root.join("../../tools/quickstart/grammar.json");
        Self {
            grammar: parsed(&fs::read_to_string(grammar).unwrap()),
            taught: lines("home.jsonl"),
            asked: lines("home.valid.jsonl"),
        }
    }
}

fn parsed<T: DeserializeOwned>(text: &str) -> T {
    serde_json::from_str(text).unwrap()
}

/// Pairs of device and action.
fn combinations(examples: &[Example]) -> BTreeSet<(&str, &str)> {
    examples.iter().map(|one| (one.device.as_str(), one.action.as_str())).collect()
}

fn frames(examples: &[Example]) -> BTreeSet<&str> {
    examples.iter().map(|one| one.frame.as_str()).collect()
}

#[test]
fn no_prompt_template_or_combination_is_both_taught_and_asked() {
    let Material { grammar, taught, asked } = Material::read();
    assert!((100..=200).contains(&asked.len()), "{} held-out prompts", asked.len());
    let prompts = |examples: &[Example]| -> BTreeSet<String> {
        examples.iter().map(|one| one.prompt.to_lowercase()).collect()
    };
    assert!(prompts(&taught).is_disjoint(&prompts(&asked)));
    assert_eq!(prompts(&asked).len(), asked.len(), "a prompt is asked twice");
    assert!(combinations(&taught).is_disjoint(&combinations(&asked)));

    let of_grammar = |list: &'static str, frames: &BTreeSet<&str>, all: &[String]| {
        assert!(frames.iter().all(|frame| all.iter().any(|known| known == frame)), "{list}");
    };
    of_grammar("training", &frames(&taught), &grammar.frames.training);
    of_grammar("held out", &frames(&asked), &grammar.frames.held_out);
    assert_eq!(frames(&asked).len(), grammar.frames.held_out.len(), "a frame is never asked");
}

/// A sentence with its numbers as `#`.
fn unnumbered(prompt: &str) -> String {
    let words = prompt.split(' ');
    let number = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    words.map(|word| if number(word) { "#" } else { word }).collect::<Vec<_>>().join(" ")
}

/// Every sentence that a frame makes of an action's phrases, with `{d}`, `{v}` and numbers as `#`.
fn sentences(grammar: &Grammar, frame: &str, action: &str) -> Vec<String> {
    let mut sentences = Vec::new();
    for (form, phrases) in &grammar.actions[action] {
        let slot = format!("{{{form}}}");
        for phrase in phrases.iter().filter(|_| frame.contains(&slot)) {
            let sentence = frame.replace(&slot, phrase);
            for delay in grammar.delays.keys() {
                sentences.push(sentence.replace("{delay}", &delay.replace("{n}", "#")));
            }
        }
    }
    sentences.sort();
    sentences.dedup();
    sentences
}

/// The values that may stand in an action's sentences, as they read once unnumbered.
fn values(grammar: &Grammar, action: &str) -> Vec<String> {
    if action == "color" { grammar.colors.clone() } else { vec!["#".into()] }
}

/// Each example is what it says it is: its frame, one of its action's phrases, one of its device's
/// names, and an answer that agrees. So frame and combination in the files can be believed.
#[test]
fn every_example_is_made_of_its_frame_action_and_device() {
    let Material { grammar, taught, asked } = Material::read();
    for one in taught.iter().chain(&asked) {
        let device = grammar.home.devices.iter().find(|device| device.id == one.device).unwrap();
        let held_out = device.held_out.contains(&one.action);
        assert_eq!(grammar.frames.held_out.contains(&one.frame), held_out, "{one:?}");
        let domain = one.device.split('.').next().unwrap();
        assert!(grammar.domains[domain].contains(&one.action), "{one:?}");

        let answer: Value = parsed(&one.completion);
        assert_eq!(
            (&answer["action"], &answer["target"]),
            (&one.action.as_str().into(), &one.device.as_str().into())
        );
        let value =
            answer.get("value").map(|value| value.as_str().map_or("#".into(), str::to_owned));
        let made = sentences(&grammar, &one.frame, &one.action).into_iter().any(|sentence| {
            device.says.iter().any(|name| {
                let sentence = sentence.replace("{d}", name);
                sentence.contains("{v}") == value.is_some()
                    && sentence.replace("{v}", value.as_deref().unwrap_or_default())
                        == unnumbered(&one.prompt)
            })
        });
        assert!(made, "{one:?}");
        numbers_agree(&grammar, one, &answer);
    }
}

/// The numbers of a prompt, and the delays said in words, are those of its answer.
fn numbers_agree(grammar: &Grammar, one: &Example, answer: &Value) {
    let said = |word: &str| word.parse::<u64>().ok();
    let mut said: Vec<u64> = one.prompt.split(' ').filter_map(said).collect();
    if one.frame.contains("{delay}") {
        let worded = grammar.delays.iter().filter(|(words, _)| one.prompt.contains(*words));
        said.extend(worded.filter_map(|(_, minutes)| *minutes));
    }
    let fields = ["value", "delay"].iter().filter_map(|field| answer.get(field)?.as_u64());
    let mut answered: Vec<u64> = fields.collect();
    said.sort_unstable();
    answered.sort_unstable();
    assert_eq!(said, answered, "{one:?}");
    assert_eq!(answer.get("delay").is_some(), one.frame.contains("{delay}"), "{one:?}");
}

/// No frame of pretraining or of the home's examples can make a held-out prompt, nor can a command
/// among fillers, whatever the device is called.
#[test]
fn no_held_out_prompt_can_be_made_with_the_frames_of_training() {
    let Material { grammar, asked, taught } = Material::read();
    let frames = grammar.frames.training.iter().map(String::as_str);
    let (framed, bare) = (Patterns::of(&grammar, frames), Patterns::of(&grammar, FORMS));
    let made = |prompt: &str| {
        let prompt = unnumbered(prompt);
        framed.find(&prompt).or_else(|| {
            unwrapped(&grammar, &prompt).into_iter().find_map(|command| bare.find(command))
        })
    };
    for one in &asked {
        assert_eq!(made(&one.prompt), None, "{}", one.prompt);
    }
    // The same search finds what was made so.
    assert!(taught.iter().all(|one| made(&one.prompt).is_some()));
    let wrapped = ["mother well turn off Rosie cat in 5 minutes", "in an hour so close the sails"];
    assert_eq!(wrapped.map(made), [Some("turn off {d}"), Some("close {d}")]);
}

const FORMS: [&str; 3] = ["{do}", "{done}", "{doing}"];

/// Sentences with `{d}` for a device, and the words a device may be called by.
struct Patterns<'a> {
    sentences: Vec<String>,
    names: BTreeSet<&'a str>,
}

impl<'a> Patterns<'a> {
    /// All actions in some frames.
    fn of<'f>(grammar: &'a Grammar, frames: impl IntoIterator<Item = &'f str>) -> Self {
        let mut all = Vec::new();
        for frame in frames {
            for action in grammar.actions.keys() {
                for sentence in sentences(grammar, frame, action) {
                    let values = values(grammar, action).into_iter();
                    all.extend(values.map(|value| sentence.replace("{v}", &value)));
                }
            }
        }
        let Generic { kinds, rooms, names, nouns } = &grammar.generic;
        let generic = kinds.values().chain([rooms, names, nouns]).flatten();
        let own = grammar.home.devices.iter().flat_map(|device| &device.says);
        let words = generic.chain(own).flat_map(|name| name.split(' '));
        Self { sentences: all, names: words.chain(["the", "in", "#"]).collect() }
    }

    /// A sentence that reads so with some device.
    fn find(&self, prompt: &str) -> Option<&str> {
        // A name that was made up begins with a capital.
        let word = |word: &str| self.names.contains(word) || word.starts_with(char::is_uppercase);
        let fits = |sentence: &&String| {
            let (before, behind) = sentence.split_once("{d}").expect("a sentence names a device");
            let rest = prompt.strip_prefix(before).and_then(|rest| rest.strip_suffix(behind));
            rest.is_some_and(|device| device.split(' ').all(word))
        };
        self.sentences.iter().find(fits).map(String::as_str)
    }
}

/// What may be the command in a prompt, fillers and delays taken away.
fn unwrapped<'p>(grammar: &Grammar, prompt: &'p str) -> BTreeSet<&'p str> {
    let delays: Vec<String> = grammar.delays.keys().map(|d| d.replace("{n}", "#")).collect();
    let (mut found, mut next) = (BTreeSet::new(), vec![prompt]);
    while let Some(text) = next.pop() {
        if !found.insert(text) {
            continue;
        }
        let ends = [text.split_once(' '), text.rsplit_once(' ').map(|(rest, word)| (word, rest))];
        let filler = |word: &str| grammar.fillers.contains(word);
        next.extend(ends.into_iter().flatten().filter(|(word, _)| filler(word)).map(|cut| cut.1));
        for delay in &delays {
            next.extend(text.strip_prefix(delay.as_str()).map(str::trim_start));
            next.extend(text.strip_suffix(delay.as_str()).map(str::trim_end));
        }
    }
    found
}

/// The generator also drops any device that is called like one of the home's, or has its id.
#[test]
fn the_home_is_none_of_the_generic_ones() {
    let Grammar { generic, home, .. } = Material::read().grammar;
    let known: Vec<&String> = [&generic.rooms, &generic.names, &generic.nouns]
        .into_iter()
        .chain(generic.kinds.values())
        .flatten()
        .collect();
    for name in home.devices.iter().flat_map(|device| &device.says) {
        assert!(!known.contains(&name), "{name}");
    }
    let own = |device: &&Device| device.id.contains(|c: char| c.is_ascii_digit());
    let guessable = home.devices.len() - home.devices.iter().filter(own).count();
    assert_eq!((home.devices.len(), guessable), (22, 2), "ids that a name gives away");
}
