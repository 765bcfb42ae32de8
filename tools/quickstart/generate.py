"""Household commands and their intents, drawn from `grammar.json`.

`stream` yields the endless pretraining data of generic homes; run as a script, this file writes the
examples of the one home that `lowtide quickstart` learns, and the held-out prompts it is asked.

Three things are kept apart here, and a Rust test holds the files against the grammar:
- frames under `held_out` make held-out prompts and nothing else;
- a home's device and an action under its `held_out` meet in held-out prompts and nowhere else;
- no device of the home is named in pretraining.
"""

import argparse
import json
import random
import re
from pathlib import Path

HERE = Path(__file__).parent
GRAMMAR = json.loads((HERE / "grammar.json").read_text("utf-8"))
ASSETS = HERE.parents[1] / "crates" / "lowtide" / "assets" / "quickstart"

FORMS = ("do", "done", "doing")
CONSONANTS = "b c d f g h j k l m n p r s t v w z br ch cl dr fl gr ph sh sk st th tr".split()
LETTERS = "abcdefghjkmnpqrstuvwxyz"
VOWELS = "a e i o u ai ea ee oo ou y".split()
#: Nicknames that the base learns by heart.
NAMES_KNOWN = 220
CODAS = ["", "n", "r", "s", "l", "x", "ck", "nd", "son"]


def form_of(frame):
    return next(form for form in FORMS if "{" + form + "}" in frame)


def slug(name):
    """A name as a hub writes it in an id."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower().removeprefix("the ")).strip("_")


def value_of(rng, action, colors):
    match action:
        case "dim" | "position" | "volume":
            return 5 * rng.randint(1, 19)
        case "heat":
            return rng.randint(16, 26)
        case "speed":
            return rng.randint(1, 6)
        case "color":
            return rng.choice(colors)
    return None


def sentence(rng, frame, action, says, colors):
    """A prompt, with its value and its delay in minutes, each or both `None`."""
    form = form_of(frame)
    phrase = rng.choice(GRAMMAR["actions"][action][form])
    value, delay = value_of(rng, action, colors), None
    prompt = frame.replace("{" + form + "}", phrase)
    if "{delay}" in prompt:
        words, delay = rng.choice(list(GRAMMAR["delays"].items()))
        delay = delay or 5 * rng.randint(1, 11)
        prompt = prompt.replace("{delay}", words.replace("{n}", str(delay)))
    return prompt.replace("{v}", str(value)).replace("{d}", says), value, delay


def intent(action, target, value, delay):
    """The answer, as compact JSON."""
    fields = {"action": action, "target": target}
    if value is not None:
        fields["value"] = value
    if delay is not None:
        fields["delay"] = delay
    return json.dumps(fields, separators=(",", ":"))


def made_up(rng):
    """A name that nobody knows: it has to be spelled."""
    pairs = (rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(rng.randint(1, 2)))
    return ("".join(pairs) + rng.choice(CODAS)).capitalize()


def nicknames():
    """Devices known by a name alone, by domain: `(name, id)`.

    Their ids cannot be guessed, so the base learns them by heart. It knows then that there are such
    names, and a home's own names are only more of them.
    """
    rng, generic = random.Random(0), GRAMMAR["generic"]
    domains, used = list(GRAMMAR["domains"]), {device["id"] for device in GRAMMAR["home"]["devices"]}
    names = dict.fromkeys(generic["names"] + generic["nouns"])
    while len(names) < NAMES_KNOWN:
        names[made_up(rng)] = None
    known = {domain: [] for domain in domains}
    for at, name in enumerate(names):
        domain = domains[at % len(domains)]
        while (target := f"{domain}.{rng.choice(LETTERS)}{rng.randint(1, 9)}") in used:
            pass
        used.add(target)
        known[domain].append((name, target))
    return known


NICKNAMES = nicknames()


def frame_of(rng):
    """A frame of pretraining: one that people use, or a form among any words at all, so that the
    base learns to listen to the command alone."""
    if rng.random() < 0.5:
        return rng.choice(GRAMMAR["frames"]["training"])
    some = lambda most: rng.choices(GRAMMAR["fillers"], k=rng.randint(0, most))
    words = [*some(6), "{" + rng.choice(FORMS) + "}", *some(4)]
    draw = rng.random()
    if draw < 0.10:
        words.insert(0, "{delay}")
    elif draw < 0.25:
        words.append("{delay}")
    return " ".join(words)


def generic_device(rng, action):
    """A device of some home: what it is called, and its id."""
    generic = GRAMMAR["generic"]
    domain = rng.choice([d for d, actions in GRAMMAR["domains"].items() if action in actions])
    kind, room = rng.choice(generic["kinds"][domain]), rng.choice(generic["rooms"])
    name, number = made_up(rng), rng.randint(1, 9)
    draw = rng.random()
    if draw < 0.36:
        return rng.choice(NICKNAMES[domain])
    if draw < 0.40:
        says, id = f"{name} the {kind}", slug(name)
    elif draw < 0.65:
        says, id = f"the {room} {kind}", slug(room)
    elif draw < 0.80:
        says, id = f"the {kind} in the {room}", slug(room)
    elif draw < 0.92:
        says, id = f"{kind} {number} in the {room}", f"{slug(room)}_{number}"
    else:
        says, id = f"the {room} {kind} {number}", f"{slug(room)}_{number}"
    return says, f"{domain}.{id}"


def of_the_home():
    """Names of the home's devices; none may appear in pretraining."""
    return {says for device in GRAMMAR["home"]["devices"] for says in device["says"]}


def stream(seed):
    """Pretraining examples without end: `(prompt, answer)`."""
    rng = random.Random(seed)
    actions = list(GRAMMAR["actions"])
    taken = of_the_home()
    ids = {device["id"] for device in GRAMMAR["home"]["devices"]}
    while True:
        action = rng.choice(actions)
        says, target = generic_device(rng, action)
        if says in taken or target in ids:
            continue
        prompt, value, delay = sentence(rng, frame_of(rng), action, says, GRAMMAR["colors"])
        yield prompt, intent(action, target, value, delay)


def record(rng, frame, action, device):
    says = rng.choice(device["says"])
    prompt, value, delay = sentence(rng, frame, action, says, GRAMMAR["home"]["colors"])
    return {
        "prompt": prompt,
        "completion": intent(action, device["id"], value, delay),
        "frame": frame,
        "action": action,
        "device": device["id"],
    }


def deck(rng, cards):
    """The cards, shuffled, again and again."""
    while True:
        yield from rng.sample(cards, len(cards))


def combinations(held_out):
    """Pairs of device and action, those to be trained on or those held out."""
    for device in GRAMMAR["home"]["devices"]:
        for action in GRAMMAR["domains"][device["id"].split(".")[0]]:
            if (action in device["held_out"]) == held_out:
                yield device, action


def examples(seed, frames, held_out, each, taken):
    """`each` different prompts for each combination, in random order."""
    rng = random.Random(seed)
    frames = deck(rng, frames)
    records = []
    for device, action in combinations(held_out):
        made = 0
        while made < each:
            made_now = record(rng, next(frames), action, device)
            if made_now["prompt"] not in taken:
                taken.add(made_now["prompt"])
                records.append(made_now)
                made += 1
    rng.shuffle(records)
    return records


def write(path, records):
    lines = [json.dumps(line, ensure_ascii=False) for line in records]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    print(f"{path}: {len(records)} records")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ASSETS)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--each", type=int, default=16, help="examples a combination")
    parser.add_argument("--held-out-each", type=int, default=6)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    taken = set()
    frames = GRAMMAR["frames"]
    train = examples(args.seed, frames["training"], False, args.each, taken)
    valid = examples(args.seed + 1, frames["held_out"], True, args.held_out_each, taken)
    write(args.output / "home.jsonl", train)
    write(args.output / "home.valid.jsonl", valid)


if __name__ == "__main__":
    main()
