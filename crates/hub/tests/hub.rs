//! Models of the hub: from the cache, from a server of the test's own, and from nowhere.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use lowtide_hub::{Event, Hub, HubError, ModelId, locate};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// A port that nobody listens on: connections are refused at once.
const NOWHERE: &str = "http://127.0.0.1:9";

fn id(text: &str) -> ModelId {
    ModelId::parse(text).unwrap()
}

/// Puts a snapshot into a cache, as the hub's tools lay it out.
fn snapshot(cache: &Path, files: &[(&str, &str)]) -> PathBuf {
    let folder = cache.join("models--org--name");
    fs::create_dir_all(folder.join("refs")).unwrap();
    fs::write(folder.join("refs/main"), COMMIT).unwrap();
    let dir = folder.join("snapshots").join(COMMIT);
    for (name, text) in files {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

#[test]
fn a_cached_folder_needs_no_network() {
    let cache = tempfile::tempdir().unwrap();
    let dir = snapshot(cache.path(), &[("config.json", "{}"), ("model.safetensors", "")]);
    let hub = Hub::at(cache.path()).with_endpoint(NOWHERE);
    assert_eq!(hub.find(&id("org/name")), Ok(dir.clone()));
    assert_eq!(hub.fetch(&id("org/name"), &mut |_| panic!("nothing to load")), Ok(dir));
}

#[test]
fn cached_shards_must_all_be_there() {
    let cache = tempfile::tempdir().unwrap();
    let index = r#"{"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}"#;
    let files =
        [("config.json", "{}"), ("model.safetensors.index.json", index), ("m-1.safetensors", "")];
    let dir = snapshot(cache.path(), &files);
    let hub = Hub::at(cache.path()).with_endpoint(NOWHERE);
    let error = hub.find(&id("org/name")).unwrap_err();
    let missing = "m-2.safetensors".to_owned();
    let expected =
        HubError::NotCached { id: "org/name".into(), missing, cache: cache.path().into() };
    assert_eq!(error, expected);
    snapshot(cache.path(), &[("m-2.safetensors", "")]);
    assert_eq!(hub.find(&id("org/name")), Ok(dir));
}

#[test]
fn hostile_lists_of_weights() {
    let index = "model.safetensors.index.json";
    for (text, words) in [
        ("{", "not JSON"),
        ("{}", "`weight_map` is missing"),
        (r#"{"weight_map": {"a": "../../etc/passwd"}}"#, "expected a file beside it"),
        (r#"{"weight_map": {"a": 7}}"#, "names 7; expected a file beside it"),
    ] {
        let cache = tempfile::tempdir().unwrap();
        snapshot(cache.path(), &[("config.json", "{}"), (index, text)]);
        let error = Hub::at(cache.path())
            .with_endpoint(NOWHERE)
            .find(&id("org/name"))
            .unwrap_err()
            .to_string();
        assert!(error.contains(index) && error.contains(words), "{error}");
    }
}

#[test]
fn cached_gguf_files_are_picked_by_name() {
    let cache = tempfile::tempdir().unwrap();
    let files = [("m-Q8_0.gguf", ""), ("m-Q4_0.gguf", ""), ("sub/m-F16.gguf", "")];
    let dir = snapshot(cache.path(), &files);
    let hub = Hub::at(cache.path()).with_endpoint(NOWHERE);
    assert_eq!(hub.find(&id("org/name:q4_0")), Ok(dir.join("m-Q4_0.gguf")));
    assert_eq!(hub.find(&id("org/name:m-Q8_0.gguf")), Ok(dir.join("m-Q8_0.gguf")));
    assert_eq!(hub.find(&id("org/name:sub/m-F16.gguf")), Ok(dir.join("sub/m-F16.gguf")));
    let error = hub.find(&id("org/name")).unwrap_err().to_string();
    let words = "org/name: several GGUF files fit (m-Q4_0.gguf, m-Q8_0.gguf); name one as in \
                 org/name:m-Q4_0.gguf";
    assert_eq!(error, words);
    assert!(matches!(hub.find(&id("org/name:q5")), Err(HubError::NotCached { .. })));
    fs::remove_file(dir.join("m-Q4_0.gguf")).unwrap();
    assert_eq!(hub.find(&id("org/name")), Ok(dir.join("m-Q8_0.gguf")));
}

#[test]
fn an_unreachable_hub_says_what_to_do() {
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub::at(cache.path()).with_endpoint(NOWHERE);
    let error = hub.fetch(&id("org/name"), &mut |_| ()).unwrap_err().to_string();
    let start = "org/name: no file or folder of this name, and http://127.0.0.1:9/org/name cannot \
                 be had: ";
    let end = "; download the repository by other means and give the folder as the model";
    assert!(error.starts_with(start) && error.ends_with(end), "{error}");
}

#[test]
fn a_local_path_wins_and_other_paths_stay_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(locate(dir.path()).as_deref(), Ok(dir.path()));
    for path in ["no/such/path", "model.gguf", "models/none.gguf"] {
        assert_eq!(locate(path.as_ref()), Ok(path.into()));
    }
}

/// A hub that serves `files` of org/name, and notes what it was asked for.
fn serve(files: &'static [(&str, &str)]) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            answer(stream, files, &log);
        }
    });
    (endpoint, asked)
}

fn answer(mut stream: TcpStream, files: &[(&str, &str)], log: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let request = lines.next().unwrap_or_default();
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let range = lines.take_while(|line| !line.is_empty()).filter_map(|line| {
        let line = line.to_lowercase();
        let (start, end) = line.strip_prefix("range: bytes=")?.split_once('-')?;
        Some((start.parse().ok()?, end.parse::<usize>().ok()))
    });
    let range: Option<(usize, Option<usize>)> = range.last();
    let siblings: Vec<_> =
        files.iter().map(|(name, _)| format!(r#"{{"rfilename": "{name}"}}"#)).collect();
    let info = format!(r#"{{"siblings": [{}], "sha": "{COMMIT}"}}"#, siblings.join(","));
    let body = match path.strip_prefix("/org/name/resolve/main/") {
        Some(name) => {
            log.lock().unwrap().push(name.to_owned());
            files.iter().find(|(other, _)| *other == name).map(|(_, text)| (*text).to_owned())
        }
        None => (path == "/api/models/org/name/revision/main").then_some(info),
    };
    let response = match body {
        None => "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".into(),
        Some(body) => {
            let (start, end) = range.unwrap_or((0, None));
            let end = end.map_or(body.len(), |end| (end + 1).min(body.len()));
            let piece = &body[start.min(end)..end];
            format!(
                "HTTP/1.1 206 Partial Content\r\netag: \"{}\"\r\nx-repo-commit: {COMMIT}\r\n\
                 content-range: bytes {start}-{}/{}\r\ncontent-length: {}\r\n\
                 connection: close\r\n\r\n{piece}",
                path.replace('/', ""),
                end.saturating_sub(1),
                body.len(),
                piece.len(),
            )
        }
    };
    let _ = stream.write_all(response.as_bytes());
}

#[test]
fn a_folder_is_downloaded_once_and_nothing_besides() {
    const INDEX: &str = concat!(
        r#"{"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors", "#,
        r#""c": "m-1.safetensors"}}"#
    );
    let (endpoint, asked) = serve(&[
        ("README.md", "words"),
        ("config.json", "{}"),
        ("tokenizer.json", "{\"version\": 1}"),
        ("pytorch_model.bin", "old"),
        ("model.safetensors.index.json", INDEX),
        ("m-1.safetensors", "first"),
        ("m-2.safetensors", "second"),
    ]);
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub::at(cache.path()).with_endpoint(&endpoint);
    let mut told = Vec::new();
    let mut tell = |event: Event<'_>| told.push((event.file.to_owned(), event.done, event.total));
    let dir = hub.fetch(&id("org/name"), &mut tell).unwrap();
    assert_eq!(dir, cache.path().join("models--org--name/snapshots").join(COMMIT));
    let wanted = [
        "config.json",
        "tokenizer.json",
        "model.safetensors.index.json",
        "m-1.safetensors",
        "m-2.safetensors",
    ];
    let mut asked_for = asked.lock().unwrap().clone();
    asked_for.dedup();
    assert_eq!(asked_for, wanted);
    let finished: Vec<_> = told.iter().filter(|(_, done, total)| done == total).collect();
    assert_eq!(finished.iter().map(|(file, ..)| file.as_str()).collect::<Vec<_>>(), wanted);
    assert_eq!(fs::read_to_string(dir.join("m-2.safetensors")).unwrap(), "second");
    // The second time nobody is asked.
    let hub = Hub::at(cache.path()).with_endpoint(NOWHERE);
    assert_eq!(hub.fetch(&id("org/name"), &mut |_| panic!("all is there")), Ok(dir));
}

#[test]
fn a_gguf_file_is_downloaded_with_all_its_parts() {
    let (endpoint, asked) = serve(&[
        ("config.json", "{}"),
        ("m-Q8_0.gguf", "q8"),
        ("m-Q4_0-00001-of-00002.gguf", "one"),
        ("m-Q4_0-00002-of-00002.gguf", "two"),
    ]);
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub::at(cache.path()).with_endpoint(&endpoint);
    let path = hub.fetch(&id("org/name:q4_0"), &mut |_| ()).unwrap();
    assert!(path.ends_with("m-Q4_0-00001-of-00002.gguf"), "{}", path.display());
    assert!(path.with_file_name("m-Q4_0-00002-of-00002.gguf").is_file());
    assert!(asked.lock().unwrap().iter().all(|name| name.starts_with("m-Q4_0-")));
    let error = hub.fetch(&id("org/name:q5"), &mut |_| ()).unwrap_err().to_string();
    assert!(error.contains("no GGUF file of the repository is called so; there are m-Q8_0.gguf"));
}

#[test]
fn what_the_hub_has_not() {
    let (endpoint, _) = serve(&[("README.md", "words")]);
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub::at(cache.path()).with_endpoint(&endpoint);
    let fetch = |text: &str| hub.fetch(&id(text), &mut |_| ()).unwrap_err();
    assert_eq!(fetch("org/name"), HubError::NoWeights { id: "org/name".into() });
    let error = fetch("org/other").to_string();
    assert!(error.contains("the hub has no such model") && error.contains("status 404"), "{error}");
}
