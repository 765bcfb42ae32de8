//! Adapters out of PEFT folders, GGUF files and folders of mlx-lm.
//!
//! A base that stores the rows of q and k in another order (llama GGUF files) is adapted in that
//! order. In a folder, rows along a parameter's output axis lie in Hugging Face order; in a
//! GGUF adapter, in that of the base's GGUF file. They are brought to the order of the base at hand
//! on the way in.

use std::path::Path;

use lowtide_adapter::{Config, ParamSpec};
use lowtide_formats::gguf_adapter::{self, GgufAdapter};
use lowtide_formats::mlx::{self, MlxAdapter};
use lowtide_formats::peft::{self, AdapterFiles, QUANTIZE};
use lowtide_formats::safe::PermutedRows;
use lowtide_formats::{Hyperparameters, Tensor, rows};
use lowtide_lora::Draws;
use lowtide_model::{ModelError, Site, SitePatterns, SiteValues, TargetsError};

use crate::{RuntimeError, kinds};

/// An adapter that was opened and understood.
#[derive(Debug)]
pub struct LoadedAdapter {
    files: Files,
    /// Name of its method.
    pub kind: String,
    /// How its adapters are built to be trained on.
    pub config: Config,
    /// How they are built otherwise at some modules.
    pub patterns: SitePatterns,
    /// The modules it adapts.
    pub modules: Vec<String>,
}

#[derive(Debug)]
enum Files {
    Peft(AdapterFiles),
    Gguf(GgufAdapter),
    Mlx(MlxAdapter),
}

impl LoadedAdapter {
    /// Opens an adapter: a folder in PEFT's layout, or LoRA in a GGUF file or a folder of mlx-lm.
    ///
    /// # Errors
    /// When a file is unsound, or the adapter is of a kind or with a setting that is not known.
    pub fn open(path: &Path) -> Result<Self, RuntimeError> {
        match path {
            path if path.is_file() => Self::open_gguf(path),
            path if mlx::is_adapter(path) => Self::open_mlx(path),
            path => Self::open_peft(path),
        }
    }

    fn open_mlx(dir: &Path) -> Result<Self, RuntimeError> {
        let files = MlxAdapter::open(dir)?;
        let said = files.config();
        let config = Config {
            rank: said.rank,
            alpha: said.alpha(),
            dropout: said.dropout,
            ..Config::default()
        };
        let modules = files.pairs().map(|pair| pair.module.to_owned()).collect();
        let (kind, patterns) = ("lora".into(), SitePatterns::NONE);
        Ok(Self { files: Files::Mlx(files), kind, config, patterns, modules })
    }

    fn open_gguf(path: &Path) -> Result<Self, RuntimeError> {
        let file = GgufAdapter::open(path)?;
        let facts = file.facts();
        let rank = facts.common_rank();
        let config = Config { rank, alpha: facts.alpha_at(rank), ..Config::default() };
        let others = || facts.modules.iter().filter(|module| module.rank != rank);
        let ranks = others().map(|module| (module.module.as_str(), module.rank));
        // Only an alpha of 0, which stands for the rank, differs where the rank does.
        let alphas = others().filter(|_| facts.alpha == 0.0);
        let alphas = alphas.map(|m| (m.module.as_str(), facts.alpha_at(m.rank)));
        let patterns = SitePatterns::new(ranks, alphas).map_err(|error| RuntimeError::Adapter {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        let modules = facts.modules.iter().map(|module| module.module.clone()).collect();
        Ok(Self { files: Files::Gguf(file), kind: "lora".into(), config, patterns, modules })
    }

    fn open_peft(dir: &Path) -> Result<Self, RuntimeError> {
        let files = AdapterFiles::open(dir)?;
        if files.peft_type() != "LORA" {
            return Self::of_method(dir, files);
        }
        let (said, pairs) = files.lora()?;
        let modules: Vec<String> = pairs.iter().map(|pair| pair.module.to_owned()).collect();
        let patterns = patterns(dir, &said.rank_pattern, &said.alpha_pattern)?.matching(&modules);
        let (kind, config) = kinds::of_lora(&said);
        let kind = kind.to_owned();
        Ok(Self { files: Files::Peft(files), kind, config, patterns, modules })
    }

    /// An adapter of a method that PEFT does not count as LoRA.
    fn of_method(dir: &Path, files: AdapterFiles) -> Result<Self, RuntimeError> {
        let (method, modules) = files.method()?;
        let modules: Vec<String> = modules.into_iter().map(str::to_owned).collect();
        let patterns = patterns(dir, &method.rank_pattern, &method.alpha_pattern)?;
        let patterns = patterns.matching(&modules);
        let config = Config {
            rank: method.r,
            alpha: method.alpha,
            dropout: method.dropout,
            use_rslora: false,
            options: method.options,
        };
        let kind = files.peft_type().to_ascii_lowercase();
        Ok(Self { files: Files::Peft(files), kind, config, patterns, modules })
    }

    /// The folder or file.
    pub fn path(&self) -> &Path {
        match &self.files {
            Files::Peft(files) => files.dir(),
            Files::Gguf(file) => file.path(),
            Files::Mlx(files) => files.dir(),
        }
    }

    /// How its adapters are built to be used: what was trained in codes holds the numbers that the
    /// codes stand for, and needs no coding.
    #[must_use]
    pub fn config_in_use(&self) -> Config {
        let mut config = self.config.clone();
        if kinds::can_be_coded(&self.kind) {
            config.options.remove(QUANTIZE);
        }
        config
    }

    /// The error of building a base with this adapter, laid at the door of the adapter where it
    /// adapts what the base has not.
    pub fn blame(&self, error: RuntimeError) -> RuntimeError {
        let RuntimeError::Model { path, source } = &error else { return error };
        let ModelError::Targets(TargetsError::UnknownModule { name, .. }) = source else {
            return error;
        };
        RuntimeError::Adapter {
            path: self.path().to_owned(),
            reason: format!(
                "it adapts `{name}`, which {} does not have: the adapter is of another base",
                path.display()
            ),
        }
    }

    /// Fills the tensors of `sites` with the adapter's, rows in the order of the base.
    ///
    /// # Errors
    /// [`RuntimeError::Adapter`] when a site's tensor is missing or has another shape, or the
    /// adapter has tensors of modules that are not among the sites; [`RuntimeError::Formats`] when
    /// a GGUF adapter is of another architecture.
    pub fn fill<'v>(
        &self,
        hyper: &Hyperparameters,
        sites: &[Site],
        values: impl Into<SiteValues<'v>>,
    ) -> Result<(), RuntimeError> {
        let mut values = values.into();
        let refuse =
            |reason: String| RuntimeError::Adapter { path: self.path().to_owned(), reason };
        self.check_base(hyper)?;
        if let Some(stray) = self.modules.iter().find(|m| !sites.iter().any(|s| s.info.name == **m))
        {
            return Err(refuse(format!("it adapts `{stray}`, which is not a site of this run")));
        }
        self.check_projections(sites)?;
        for site in sites {
            self.fill_site(hyper, site, site.tensors(&mut values))?;
        }
        Ok(())
    }

    /// Refuses matrices of VeRA in the file that are not those of the settings' key: the methods
    /// here know no others.
    pub(crate) fn check_projections(&self, sites: &[Site]) -> Result<(), RuntimeError> {
        let Files::Peft(files) = &self.files else { return Ok(()) };
        let there = files.projections();
        if there.iter().all(|(_, tensor)| tensor.is_none()) {
            return Ok(());
        }
        let widest = |width: fn(&Site) -> usize| sites.iter().map(width).max().unwrap_or_default();
        let inputs = widest(|site| site.info.in_features);
        let outputs = widest(|site| site.info.out_features);
        let rank = self.config.rank;
        let key = self.config.options.get("projection_prng_key");
        let key: u64 = key.and_then(|key| key.parse().ok()).unwrap_or_default();
        let mut draws = Draws::new(key);
        for ((name, tensor), shape) in there.into_iter().zip([[rank, inputs], [outputs, rank]]) {
            if tensor.is_some_and(|tensor| tensor.shape != shape)
                || !drawn(tensor, &mut draws, shape)
            {
                let reason = format!(
                    "tensor `{name}` is not what `projection_prng_key` {key} makes for this base \
                     and rank; other matrices are not supported"
                );
                return Err(RuntimeError::Adapter { path: self.path().to_owned(), reason });
            }
        }
        Ok(())
    }

    /// Refuses a base of another architecture than the adapter names, where it names one.
    pub(crate) fn check_base(&self, hyper: &Hyperparameters) -> Result<(), RuntimeError> {
        match &self.files {
            Files::Gguf(file) => Ok(file.check_base(hyper)?),
            Files::Peft(_) | Files::Mlx(_) => Ok(()),
        }
    }

    /// Fills the tensors of one site, rows in the order of the base.
    ///
    /// # Errors
    /// As [`fill`](Self::fill).
    pub(crate) fn fill_site<'s, 'v>(
        &self,
        hyper: &Hyperparameters,
        site: &Site,
        tensors: impl Iterator<Item = (&'s ParamSpec, &'v mut [f32])>,
    ) -> Result<(), RuntimeError> {
        let refuse =
            |reason: String| RuntimeError::Adapter { path: self.path().to_owned(), reason };
        for (spec, into) in tensors {
            let (name, tensor) = self.tensor(&site.info.name, spec.name);
            let Some(tensor) = tensor else {
                return Err(refuse(format!("tensor `{name}` is missing")));
            };
            let flat = spec.shape[1] == 1 && tensor.shape == &spec.shape[..1];
            if tensor.shape != spec.shape && !flat {
                let (found, want) = (tensor.shape, spec.shape);
                let reason = format!(
                    "tensor `{name}` has shape {found:?}, this base and rank need {want:?}: the \
                     adapter is of another base or another rank"
                );
                return Err(refuse(reason));
            }
            let values = tensor.to_f32_vec();
            let stored = self.stored_rows(hyper, site, spec);
            match (stored, permuted_rows(hyper, site, spec)) {
                (None, Some(PermutedRows { heads, head_dim })) => {
                    rows::permute(&values, into, heads, head_dim);
                }
                (Some(PermutedRows { heads, head_dim }), None) => {
                    rows::unpermute(&values, into, heads, head_dim);
                }
                _ => into.copy_from_slice(&values),
            }
        }
        Ok(())
    }

    /// A parameter of a module, with what its file calls it.
    fn tensor(&self, module: &str, parameter: &str) -> (String, Option<Tensor<'_>>) {
        let hf_name = peft::tensor_name(module, parameter);
        match &self.files {
            Files::Peft(files) => (hf_name, files.tensor(module, parameter)),
            Files::Gguf(file) => {
                let name = file.stored_name(module, parameter).unwrap_or(hf_name);
                (name, file.tensor(module, parameter))
            }
            Files::Mlx(files) => (hf_name, files.tensor(module, parameter)),
        }
    }

    /// How the rows of a site's parameter are permuted in the adapter's file, if they are.
    fn stored_rows(
        &self,
        hyper: &Hyperparameters,
        site: &Site,
        spec: &ParamSpec,
    ) -> Option<PermutedRows> {
        match self.files {
            Files::Gguf(_) if spec.output_axis == Some(0) => {
                gguf_adapter::permuted_rows(hyper, &site.info.name)
            }
            _ => None,
        }
    }
}

/// Takes the numbers of a matrix of this shape, and says whether the tensor has the same, if there
/// is one; compares a row at a time.
fn drawn(tensor: Option<Tensor<'_>>, draws: &mut Draws, [rows, cols]: [usize; 2]) -> bool {
    let mut numbers = draws.matrix([rows, cols]);
    let Some(tensor) = tensor else {
        numbers.for_each(drop);
        return true;
    };
    let Ok(matrix) = tensor.qmat() else { return false };
    let mut row = vec![0.0; cols];
    (0..rows).all(|at| {
        matrix.decode_row(at, &mut row);
        row.iter().all(|value| numbers.next() == Some(*value))
    })
}

/// What an adapter's patterns say.
fn patterns(
    dir: &Path,
    ranks: &[(String, usize)],
    alphas: &[(String, f64)],
) -> Result<SitePatterns, RuntimeError> {
    let ranks = ranks.iter().map(|(key, rank)| (key.as_str(), *rank));
    let alphas = alphas.iter().map(|(key, alpha)| (key.as_str(), *alpha));
    SitePatterns::new(ranks, alphas)
        .map_err(|error| RuntimeError::Adapter { path: dir.to_owned(), reason: error.to_string() })
}

/// Fills the tensors of `sites` from an adapter folder or file.
///
/// # Errors
/// As [`LoadedAdapter::open`] and [`LoadedAdapter::fill`].
pub fn load_adapter<'v>(
    path: &Path,
    hyper: &Hyperparameters,
    sites: &[Site],
    values: impl Into<SiteValues<'v>>,
) -> Result<(), RuntimeError> {
    LoadedAdapter::open(path)?.fill(hyper, sites, values)
}

/// How the rows of a site's parameter are permuted in this base, if they are.
#[must_use]
pub fn permuted_rows(
    hyper: &Hyperparameters,
    site: &Site,
    spec: &ParamSpec,
) -> Option<PermutedRows> {
    let heads = hyper.permuted_heads(&site.info.name)?;
    (spec.output_axis == Some(0)).then_some(PermutedRows { heads, head_dim: hyper.head_dim })
}
