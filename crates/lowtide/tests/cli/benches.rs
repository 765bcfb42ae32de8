//! `lowtide bench`: what is found is shown, written and compared. Nothing here depends on times.

use std::fs;

use crate::place::Place;

#[test]
fn operations_are_timed_shown_and_written() {
    let place = Place::new();
    let words = "bench --quick --suite kernels --filter rmsnorm --threads 1,2 --rounds 2 \
                 --json bench.json --html bench.html";
    let out = place.lowtide(words).done();
    for part in [
        "\n  1 thread    ",
        "\nrmsnorm 32x576\n  ndarray/1 ",
        "\nrmsnorm_vjp 32x576\n",
        "\nwrote bench.json\nwrote bench.html\n",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let json = place.json("bench.json");
    let labels: Vec<_> =
        json["contenders"].as_array().unwrap().iter().map(|c| &c["label"]).collect();
    assert_eq!(labels.len(), 4, "{labels:?}");
    assert_eq!([labels[0], labels[1]], ["ndarray/1", "ndarray/2"]);
    let row = &json["rows"][0];
    assert_eq!((&row["suite"], &row["name"]), (&"kernels".into(), &"rmsnorm 32x576".into()));
    assert_eq!(row["results"].as_array().unwrap().len(), 4);
    assert!(row["results"][3]["seconds"]["median"].as_f64().unwrap() > 0.0);
    let page = fs::read_to_string(place.path("bench.html")).unwrap();
    assert!(page.contains("rmsnorm_vjp 32x576") && !page.contains("<script"), "{page}");
}

#[test]
fn steps_generation_and_memory_take_a_base_and_stand_beside_peers() {
    let place = Place::new();
    let figure = r#"{"suite": "step", "rows": ["train 16 block"], "seconds": 2.0}"#;
    let peers = format!(r#"{{"peers": [{{"name": "someone", "figures": [{figure}]}}]}}"#);
    fs::write(place.path("peers.json"), peers).unwrap();
    let words = "bench --quick --suite step,generate,memory,gradients --model model \
                 --tokens 16 --rounds 1 --backend ndarray --threads 2 --peers peers.json";
    let out = place.lowtide(words).done();
    for part in [
        "\nforward 16\n  ndarray/2",
        "\ntrain 16 block\n  ndarray/2",
        "\n  someone       2.00 s",
        "\nprompt 16\n",
        "\ndecode 32 after 16\n",
        "\nMemory ",
        "\ntrain 16 store    ndarray/2",
        "\nGradients ",
        "\nblock, bf16             ndarray/2   0.99",
        "\nmezo, mean of 16 draws  ndarray/2 ",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
}

#[test]
fn published_tables_stand_beside_plans_that_need_no_base() {
    let place = Place::new();
    let out = place.lowtide("bench --quick --suite papers --backend ndarray").done();
    for part in [
        "\nMeSP: r 8, SGD, bf16 boundaries\n",
        "\n  Qwen2.5-0.5B      256  ndarray/",
        "  136.20 MiB",
        "  block, file, 64 rows\n",
        "\n  Llama-3.2-3B    16384  ndarray/",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
}

#[test]
fn memory_stands_against_held_out_loss_lever_by_lever() {
    let place = Place::new();
    // The smallest base there is, and a base of one's own needs examples of one's own.
    let words = "bench --quick --suite tradeoff --updates 1 --threads 2 --tokens 16 \
                 --json bench.json --html bench.html --model model --data data.jsonl";
    let out = place.lowtide(words).done();
    assert!(out.contains("\n\nMemory and held-out loss  "), "{out}");
    for part in ["\n  base as it is ", "\n  weights q4_0 ", "\n  softmax union:100 ~ "] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let json = place.json("bench.json");
    assert_eq!(json["model"], "model");
    let rows = json["tradeoff"].as_array().unwrap();
    assert!(rows.len() > 10, "{rows:?}");
    for row in rows {
        assert_eq!(row["planned_bytes"], row["charged_bytes"], "{row}");
        assert!(row["loss_before"].is_f64() && row["loss_after"].is_f64(), "{row}");
        assert_eq!(row["updates"], 1);
    }
    let of = |lever: &str| rows.iter().find(|row| row["lever"] == lever).unwrap();
    assert_eq!(of("policy")["loss_after"], of("base")["loss_after"]);
    assert_ne!(of("rank")["planned_bytes"], of("base")["planned_bytes"]);
    assert!(of("weights")["mapped_bytes"].as_u64() < of("base")["mapped_bytes"].as_u64());
    let page = fs::read_to_string(place.path("bench.html")).unwrap();
    assert!(page.contains("Memory against held-out loss") && !page.contains("<script"), "{page}");

    // Nothing is measured first.
    for suites in ["tradeoff", "step,tradeoff"] {
        let ran = place.lowtide(&format!("bench --suite {suites} --model model"));
        assert_eq!(ran.out, "", "{suites}");
        let error = ran.failed(2);
        assert!(error.starts_with("error: --data is missing, expected a base and "), "{error}");
    }
    let error = place.lowtide("bench --suite tradeoff --data data.jsonl").failed(2);
    assert!(error.starts_with("error: --model is missing, expected a base and "), "{error}");
}

#[test]
fn runs_that_cannot_be_as_asked_are_refused_before_any() {
    let place = Place::new();
    let line = "{\"input_ids\": [1, 2, 3]}\n";
    fs::write(place.path("nine.jsonl"), line.repeat(9)).unwrap();
    fs::write(place.path("none.jsonl"), "\n").unwrap();
    for (code, flags, says) in [
        (2, "--backend ndarray", "--backend is ndarray, expected simd, with which suites train"),
        (2, "--precision exact,fast", "--precision is exact,fast, expected exact: the suite"),
        (2, "--isa all", "--isa is all, expected one instruction set for a suite that trains"),
        (2, "--threads 1,2", "--threads is 1,2, expected one number of threads for a suite that"),
        (
            1,
            "--model model --data nine.jsonl",
            "--data nine.jsonl: 9 examples in it, where a suite that trains holds out every \
             10th; expected at least 10\n",
        ),
        (1, "--model model --data none.jsonl", "--data none.jsonl: no examples in it\n"),
    ] {
        let error = place.lowtide(&format!("bench --quick --suite tradeoff {flags}")).failed(code);
        assert!(error.starts_with(&format!("error: {says}")), "{flags}: {error}");
    }
}

#[test]
fn bad_flags_and_files_are_told_by_their_names() {
    let place = Place::new();
    let error = place.lowtide("bench --quick --filter nothing").failed(2);
    assert_eq!(error, "error: --filter: no kernel has `nothing` in its name\n");
    let error = place.lowtide("bench --suite step").failed(2);
    assert!(error.starts_with("error: --model is missing, expected a base"), "{error}");
    let error = place.lowtide("bench --suite step --model absent").failed(1);
    assert_eq!(error, "error: --model absent: no such file or folder\n");
    let error = place.lowtide("bench --quick --suite step --model model --tokens 1").failed(2);
    assert!(error.starts_with("error: --tokens: 1 tokens: expected 2 to "), "{error}");
    let error = place.lowtide("bench --isa abacus").failed(2);
    assert!(error.contains("this processor has ") && error.contains("scalar"), "{error}");
    fs::write(place.path("peers.json"), "{\"peers\": 3}").unwrap();
    let error = place.lowtide("bench --peers peers.json").failed(1);
    assert!(error.starts_with("error: peers.json: "), "{error}");
    // Before anything is measured.
    let error = place.lowtide("bench --json no/such/bench.json").failed(1);
    assert!(error.starts_with("error: no/such: cannot make "), "{error}");
    let error = place.lowtide("bench --backend ndarray --isa scalar").failed(2);
    assert!(error.starts_with("error: --isa ") && error.contains("ndarray"), "{error}");
    let error = place.lowtide("bench --backend ndarray --precision balanced").failed(2);
    assert!(error.starts_with("error: --precision ") && error.contains("f32 only"), "{error}");
}
