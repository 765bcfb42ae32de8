//! A base, whichever kind of file it lies in.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::family::{self, Family, Stop};
use crate::gguf::{Contents, Gguf, View};
use crate::hf::HfFolder;
use crate::stretch::stretches;
use crate::tokenizer::{gguf_eos_ids, gguf_special_tokens};
use crate::{
    DocumentError, Error, Fingerprint, GgufTokenizer, Hyperparameters, MappedFile, SpecialTokens,
    Stretch, Tensor, TensorError, TokenizerSource, names,
};

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";
const CHAT_TEMPLATE: &str = "tokenizer.chat_template";

/// A mapped base: a GGUF file or an HF folder, described alike.
///
/// Once open, it holds exactly the tensors its family has, all with the shapes that
/// [`hyper`](Self::hyper) gives.
#[derive(Clone, Debug)]
pub struct Base {
    path: PathBuf,
    hyper: Hyperparameters,
    family: &'static Family,
    store: Store,
    /// HF names of the family's tensors, sorted.
    names: BTreeSet<String>,
    chat_template: Option<String>,
    special_tokens: SpecialTokens,
    eos_token_ids: Vec<u32>,
}

#[derive(Clone, Debug)]
enum Store {
    Gguf(Gguf),
    Hf(Box<HfFolder>),
}

/// Reads what the metadata of a parsed GGUF file says about the model.
///
/// # Errors
/// [`DocumentError`], naming the key; a setting that would change the forward pass and is not
/// computed is refused.
pub fn describe_gguf(contents: &Contents, bytes: &[u8]) -> Result<Hyperparameters, DocumentError> {
    let view = View::new(vec![(contents, bytes)]);
    (family::of_gguf(&view)?.from_gguf)(&view)
}

impl Base {
    /// Maps and checks the base at `path`: a folder is taken as HF, a file as GGUF, or as a part of
    /// a GGUF model in several files, all of which are mapped.
    ///
    /// # Errors
    /// [`Error`], naming file and field: an unsound file, an unsupported setting, a tensor that is
    /// missing, unknown or of another shape.
    pub fn open(path: &Path) -> Result<Self, Error> {
        if path.is_dir() { Self::open_hf(path) } else { Self::open_gguf(path) }
    }

    fn open_gguf(path: &Path) -> Result<Self, Error> {
        let gguf = Gguf::open(path)?;
        let of_file = |reason| Error::document(path, reason);
        let metadata = gguf.metadata();
        let view = gguf.view();
        let family = family::of_gguf(&view).map_err(of_file)?;
        let hyper = (family.from_gguf)(&view).map_err(of_file)?;
        let chat_template = metadata.get_str(CHAT_TEMPLATE).map_err(of_file)?.map(str::to_owned);
        let special_tokens = gguf_special_tokens(&metadata).map_err(of_file)?;
        let eos_token_ids = gguf_eos_ids(&metadata, hyper.vocab_size).map_err(of_file)?;
        Self {
            path: path.to_path_buf(),
            hyper,
            family,
            store: Store::Gguf(gguf),
            names: BTreeSet::new(),
            chat_template,
            special_tokens,
            eos_token_ids,
        }
        .checked()
    }

    fn open_hf(path: &Path) -> Result<Self, Error> {
        let folder = HfFolder::open(path)?;
        Self {
            path: path.to_path_buf(),
            hyper: folder.hyper().clone(),
            family: folder.family,
            names: BTreeSet::new(),
            chat_template: folder.chat_template().map(str::to_owned),
            special_tokens: folder.special_tokens().clone(),
            eos_token_ids: folder.eos_token_ids().to_vec(),
            store: Store::Hf(Box::new(folder)),
        }
        .checked()
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The GGUF file, if it is one.
    pub fn gguf(&self) -> Option<&Gguf> {
        match &self.store {
            Store::Gguf(gguf) => Some(gguf),
            Store::Hf(_) => None,
        }
    }

    /// The HF folder, if it is one.
    pub fn folder(&self) -> Option<&HfFolder> {
        match &self.store {
            Store::Gguf(_) => None,
            Store::Hf(folder) => Some(folder),
        }
    }

    /// What the base is, in numbers.
    pub fn hyper(&self) -> &Hyperparameters {
        &self.hyper
    }

    /// The tensor that HF calls `name`, such as `model.layers.0.self_attn.q_proj.weight`.
    ///
    /// A tied head is not a tensor of its own: there is no `lm_head.weight` then.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        self.names.get(name).and_then(|name| self.stored(name))
    }

    /// HF names of all tensors, sorted.
    pub fn tensor_names(&self) -> impl Iterator<Item = String> + '_ {
        self.names.iter().cloned()
    }

    /// Size of all mapped files.
    pub fn file_bytes(&self) -> u64 {
        match &self.store {
            Store::Gguf(gguf) => gguf.file_bytes(),
            Store::Hf(folder) => folder.weights().file_bytes(),
        }
    }

    fn files(&self) -> Vec<&MappedFile> {
        match &self.store {
            Store::Gguf(gguf) => gguf.files().collect(),
            Store::Hf(folder) => folder.weights().files().collect(),
        }
    }

    /// Checks that no mapped file was cut since it was opened: what is missing cannot be read.
    ///
    /// # Errors
    /// [`Error::Cut`], naming the file.
    pub fn check_whole(&self) -> Result<(), Error> {
        match &self.store {
            Store::Gguf(gguf) => gguf.files().try_for_each(MappedFile::check_whole),
            Store::Hf(folder) => folder.weights().files().try_for_each(MappedFile::check_whole),
        }
    }

    /// Where the tensors whose HF names `wanted` accepts lie in the mapped files.
    pub fn stretches(&self, wanted: impl Fn(&str) -> bool) -> Vec<Stretch> {
        let files = self.files();
        let mut slices = Vec::new();
        for tensor in self.names.iter().filter(|name| wanted(name)).filter_map(|n| self.stored(n)) {
            for (index, file) in files.iter().enumerate() {
                slices.extend(tensor.ranges_in(file).map(|range| (index, range)));
            }
        }
        stretches(&files, slices)
    }

    /// Where the tokenizer is, or its vocabulary, copied out of the file.
    ///
    /// # Errors
    /// [`Error::Document`] if the metadata of a GGUF file describes no sound vocabulary.
    pub fn tokenizer_source(&self) -> Result<TokenizerSource, Error> {
        let gguf = match &self.store {
            Store::Gguf(gguf) => gguf,
            Store::Hf(folder) => {
                let json = folder.tokenizer_json();
                return Ok(json.map_or(TokenizerSource::None, TokenizerSource::Json));
            }
        };
        let of_file = |reason| Error::document(&self.path, reason);
        let Some(tokenizer) = GgufTokenizer::read(&gguf.metadata()).map_err(of_file)? else {
            return Ok(TokenizerSource::None);
        };
        let (tokens, rows) = (tokenizer.tokens.len(), self.hyper.vocab_size);
        if tokens > rows {
            let key = "number of tokenizer.ggml.tokens";
            let reason = DocumentError::conflict(key, tokens, "size of the vocabulary", rows);
            return Err(of_file(reason));
        }
        Ok(TokenizerSource::Gguf(tokenizer))
    }

    /// The chat template, in Jinja.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// The special tokens that chat templates name.
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.special_tokens
    }

    /// Tokens at which generation stops.
    pub fn eos_token_ids(&self) -> &[u32] {
        &self.eos_token_ids
    }

    /// What to recognise this base by later.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self)
    }

    /// Reads every weight once and refuses NaN and infinite values.
    ///
    /// # Errors
    /// [`TensorError::NotFinite`], naming tensor and place.
    pub fn check_finite(&self) -> Result<(), Error> {
        for name in &self.names {
            let bad = self.stored(name).and_then(|tensor| tensor.first_non_finite());
            if let Some((index, value)) = bad {
                let (name, value) = (self.stored_name(name), value.to_string());
                return Err(self.error(TensorError::NotFinite { name, index, value }));
            }
        }
        Ok(())
    }

    /// Checks that the file holds the family's tensors, no more and no fewer, and lists them.
    fn checked(mut self) -> Result<Self, Error> {
        let mut found = BTreeSet::new();
        let mut wrong = None;
        let visited = (self.family.tensors)(&self.hyper, &mut |name, expected| {
            let expected = expected.to_vec();
            let stored = self.stored(name).map(|tensor| tensor.shape.to_vec());
            wrong = match stored {
                Some(shape) if shape == expected => {
                    found.insert(name.to_owned());
                    return Ok(());
                }
                Some(found) => {
                    Some(TensorError::Shape { name: self.stored_name(name), expected, found })
                }
                None => Some(TensorError::Missing { name: self.stored_name(name), expected }),
            };
            Err(Stop)
        });
        if visited.is_err() {
            return Err(self.error(wrong.expect("a visit is stopped with a reason")));
        }
        if let Some(reason) = self.first_unknown(&found) {
            return Err(self.error(reason));
        }
        self.names = found;
        Ok(self)
    }

    /// A tensor in the file that no part of the model would read.
    fn first_unknown(&self, known: &BTreeSet<String>) -> Option<TensorError> {
        let unknown = |name: &str| {
            let architecture = self.hyper.architecture.clone();
            Some(TensorError::Unknown { name: name.to_owned(), architecture })
        };
        match &self.store {
            Store::Gguf(gguf) => gguf.tensor_names().find_map(|name| {
                let hf = names::to_hf(self.family.block_names, name);
                let is_setting = name == family::GGUF_ROPE_FACTORS;
                let is_known = is_setting || hf.is_some_and(|hf| known.contains(&hf));
                if is_known { None } else { unknown(name) }
            }),
            Store::Hf(folder) => folder.weights().tensor_names().find_map(|name| {
                let derived = self.family.derived_tensors.iter().any(|end| name.ends_with(end));
                match name {
                    _ if derived || known.contains(name) => None,
                    HEAD if self.hyper.tie_word_embeddings => self.untied_head(),
                    _ => unknown(name),
                }
            }),
        }
    }

    /// A head that is stored although it is tied must be a copy of the embedding.
    fn untied_head(&self) -> Option<TensorError> {
        let (head, embedding) = (self.stored(HEAD)?, self.stored(EMBEDDING)?);
        let same = head.shape == embedding.shape
            && head.format.name() == embedding.format.name()
            && head.bytes == embedding.bytes
            && head.apart.is_none()
            && embedding.apart.is_none();
        (!same).then(|| TensorError::UntiedHead { name: HEAD.to_owned() })
    }

    fn stored(&self, name: &str) -> Option<Tensor<'_>> {
        match &self.store {
            Store::Gguf(gguf) => gguf.tensor(&names::to_gguf(self.family.block_names, name)?),
            Store::Hf(folder) => folder.weights().tensor(name),
        }
    }

    /// The name of a tensor in the file itself, for errors.
    fn stored_name(&self, name: &str) -> String {
        let gguf = match &self.store {
            Store::Gguf(_) => names::to_gguf(self.family.block_names, name),
            Store::Hf(_) => None,
        };
        gguf.unwrap_or_else(|| name.to_owned())
    }

    fn error(&self, reason: TensorError) -> Error {
        Error::tensor(&self.path, reason)
    }
}
