//! The methods by name, for a registry.

use alloc::boxed::Box;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::str::FromStr;

use lowtide_adapter::{Adapter, BadValue, BuildError, Config, Method, Place, SiteInfo};
use lowtide_quant::LineCodes;
use lowtide_tensor::Float;

use crate::vera::{Seat, shared_bytes, sharing};
use crate::{Dora, FakeQuant, Lora, LoraFa, QaLora, Vera};

/// Builds a [`Lora`] for every site; rsLoRA is the same method with
/// [`Config::use_rslora`](lowtide_adapter::Config::use_rslora).
///
/// Option of all methods of this crate: `quantize`, `int8` or `int4`, which trains the adapter as
/// it is after coding ([`FakeQuant`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoraMethod;

/// Builds a [`Lora`] of the scale of rsLoRA for every site, under the name `rslora`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RsLoraMethod;

/// Builds a [`LoraFa`] for every site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoraFaMethod;

/// Builds a [`Dora`] for every site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DoraMethod;

/// Builds a [`QaLora`] for every site. Option: `group_size`, 32 by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QaLoraMethod;

/// Builds a [`Vera`] for every site, over matrices that all sites of one call of
/// [`build_all`](Method::build_all) share.
///
/// Options: `projection_prng_key`, the key of the matrices, 0 by default; `d_initial`, where the
/// trained vector between them starts, 0.1 by default. All sites need the same of both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VeraMethod;

/// [`VeraMethod`] with a bound on what sites share, on a base that keeps the outputs of some
/// linears in another order than Hugging Face. The shared matrices are in Hugging Face's order, and
/// have to follow.
#[derive(Clone, Copy)]
pub struct VeraInOrder<'o> {
    /// Bytes that the shared matrices may take.
    pub bytes_max: u64,
    /// For each output of the base's linear the one it is in Hugging Face's order, where they
    /// differ.
    pub order: &'o (dyn Fn(&SiteInfo) -> Option<Vec<usize>> + Send + Sync),
}

/// Any method of this crate on such a base: what is coded is coded in groups of Hugging Face's
/// order ([`FakeQuant::in_order`]).
#[derive(Clone, Copy)]
pub struct CodedInOrder<'o, F: Float = f32> {
    /// The method.
    pub method: &'o dyn Method<F>,
    /// As in [`VeraInOrder`].
    pub order: &'o (dyn Fn(&SiteInfo) -> Option<Vec<usize>> + Send + Sync),
}

impl<F: Float> Method<F> for LoraMethod {
    fn kind(&self) -> &'static str {
        Lora::KIND
    }

    fn options(&self) -> &'static [&'static str] {
        &[QUANTIZE]
    }

    fn build(&self, site: &SiteInfo, config: &Config) -> Built<F> {
        on_linear(Lora::KIND, site, config, Lora::new)
    }
}

impl<F: Float> Method<F> for RsLoraMethod {
    fn kind(&self) -> &'static str {
        Lora::KIND_RANK_STABILIZED
    }

    fn options(&self) -> &'static [&'static str] {
        &[QUANTIZE]
    }

    fn build(&self, site: &SiteInfo, config: &Config) -> Built<F> {
        on_linear(Lora::KIND_RANK_STABILIZED, site, config, Lora::rank_stabilized)
    }
}

impl<F: Float> Method<F> for LoraFaMethod {
    fn kind(&self) -> &'static str {
        LoraFa::KIND
    }

    fn options(&self) -> &'static [&'static str] {
        &[QUANTIZE]
    }

    fn build(&self, site: &SiteInfo, config: &Config) -> Built<F> {
        on_linear(LoraFa::KIND, site, config, LoraFa::new)
    }
}

impl<F: Float> Method<F> for DoraMethod {
    fn kind(&self) -> &'static str {
        Dora::KIND
    }

    fn options(&self) -> &'static [&'static str] {
        &[QUANTIZE]
    }

    fn build(&self, site: &SiteInfo, config: &Config) -> Built<F> {
        on_linear(Dora::KIND, site, config, Dora::new)
    }
}

impl<F: Float> Method<F> for QaLoraMethod {
    fn kind(&self) -> &'static str {
        QaLora::KIND
    }

    fn options(&self) -> &'static [&'static str] {
        &[GROUP_SIZE, QUANTIZE]
    }

    fn default_option(&self, name: &str) -> Option<&'static str> {
        (name == GROUP_SIZE).then_some(GROUP_SIZE_DEFAULT)
    }

    fn build(&self, site: &SiteInfo, config: &Config) -> Built<F> {
        let expected = "a whole number that is at least 1";
        let group = option(QaLora::KIND, GROUP_SIZE, config, expected)?;
        let group = group.unwrap_or(QaLora::GROUP_SIZE);
        if group > 0 && !site.in_features.is_multiple_of(group) && site.place == Place::Linear {
            let (method, site) = (QaLora::KIND, site.name.clone());
            let reason = "its width in is no multiple of the option `group_size`";
            return Err(BuildError::BadSite { method, site, reason });
        }
        on_linear(QaLora::KIND, site, config, |i, o, config| QaLora::new(i, o, group, config))
    }
}

impl<F: Float> Method<F> for VeraMethod {
    fn kind(&self) -> &'static str {
        Vera::<F>::KIND
    }

    fn options(&self) -> &'static [&'static str] {
        &[PROJECTION_PRNG_KEY, D_INITIAL, QUANTIZE]
    }

    fn default_option(&self, name: &str) -> Option<&'static str> {
        match name {
            PROJECTION_PRNG_KEY => Some("0"),
            D_INITIAL => Some("0.1"),
            _ => None,
        }
    }

    fn default_rank(&self) -> usize {
        Vera::<F>::DEFAULT_RANK
    }

    fn build(&self, site: &SiteInfo, config: &Config) -> Built<F> {
        Ok(self.build_all(&[(site, config)])?.pop().flatten())
    }

    fn build_all(
        &self,
        sites: &[(&SiteInfo, &Config)],
    ) -> Result<Vec<Option<Box<dyn Adapter<F>>>>, BuildError> {
        VeraInOrder { bytes_max: SHARED_BYTES_MAX, order: &|_| None }.build_all(sites)
    }
}

impl<F: Float> Method<F> for VeraInOrder<'_> {
    fn kind(&self) -> &'static str {
        Method::<F>::kind(&VeraMethod)
    }

    fn options(&self) -> &'static [&'static str] {
        Method::<F>::options(&VeraMethod)
    }

    fn default_option(&self, name: &str) -> Option<&'static str> {
        Method::<F>::default_option(&VeraMethod, name)
    }

    fn default_rank(&self) -> usize {
        Method::<F>::default_rank(&VeraMethod)
    }

    fn build(&self, site: &SiteInfo, config: &Config) -> Built<F> {
        Ok(self.build_all(&[(site, config)])?.pop().flatten())
    }

    fn build_all(
        &self,
        sites: &[(&SiteInfo, &Config)],
    ) -> Result<Vec<Option<Box<dyn Adapter<F>>>>, BuildError> {
        let is_linear = |site: &SiteInfo| site.place == Place::Linear;
        let linears: Vec<_> = sites.iter().filter(|(site, _)| is_linear(site)).collect();
        let Some((_, first)) = linears.first() else {
            return Ok(sites.iter().map(|_| None).collect());
        };
        let kind = Vera::<F>::KIND;
        let key = option(kind, PROJECTION_PRNG_KEY, first, "a whole number from 0")?;
        let start = option(kind, D_INITIAL, first, "a number")?.unwrap_or(Vera::<F>::D_INITIAL);
        if let Some((site, _)) = linears.iter().find(|(_, other)| other.rank != first.rank) {
            let reason = "its rank differs from another site's, and all share their matrices";
            return Err(BuildError::BadSite { method: kind, site: site.name.clone(), reason });
        }
        let seats: Vec<_> = linears
            .iter()
            .map(|&&(site, config)| Seat {
                dims: [site.in_features, site.out_features],
                config,
                order: (self.order)(site),
            })
            .collect();
        let (bytes, most) = (shared_bytes::<F>(&seats), self.bytes_max);
        if bytes > most {
            return Err(BuildError::TooLarge { method: kind, bytes, most });
        }
        let mut built = sharing(&seats, key.unwrap_or_default(), start)?.into_iter();
        let adapters = sites.iter().map(|(site, config)| {
            let vera = if is_linear(site) { built.next() } else { None };
            vera.map(|vera| coded(kind, Box::new(vera), config)).transpose()
        });
        adapters.collect()
    }
}

impl<F: Float> Method<F> for CodedInOrder<'_, F> {
    fn kind(&self) -> &'static str {
        self.method.kind()
    }

    fn options(&self) -> &'static [&'static str] {
        self.method.options()
    }

    fn default_option(&self, name: &str) -> Option<&'static str> {
        self.method.default_option(name)
    }

    fn default_targets(&self) -> &'static str {
        self.method.default_targets()
    }

    fn default_rank(&self) -> usize {
        self.method.default_rank()
    }

    fn needs_prompts(&self, config: &Config) -> bool {
        self.method.needs_prompts(config)
    }

    fn build(&self, site: &SiteInfo, config: &Config) -> Built<F> {
        Ok(self.build_all(&[(site, config)])?.pop().flatten())
    }

    fn build_all(
        &self,
        sites: &[(&SiteInfo, &Config)],
    ) -> Result<Vec<Option<Box<dyn Adapter<F>>>>, BuildError> {
        let codes = |config: &Config| LineCodes::named(config.options.get(QUANTIZE)?);
        let plain = |config: &Config| {
            let mut plain = config.clone();
            // Of names that are none the method itself complains.
            if codes(config).is_some() {
                plain.options.remove(QUANTIZE);
            }
            plain
        };
        let configs: Vec<_> = sites.iter().map(|(_, config)| plain(config)).collect();
        let asked: Vec<_> = sites.iter().zip(&configs).map(|((site, _), c)| (*site, c)).collect();
        let built = self.method.build_all(&asked)?.into_iter().zip(sites);
        let coded = built.map(|(adapter, (site, config))| {
            let adapter = adapter?;
            let Some(codes) = codes(config) else { return Some(adapter) };
            let coded = FakeQuant::new(adapter, codes);
            let coded = match (self.order)(site) {
                Some(order) => coded.in_order(&order),
                None => coded,
            };
            Some(Box::new(coded) as Box<dyn Adapter<F>>)
        });
        Ok(coded.collect())
    }
}

/// What the matrices that all sites of VeRA share may take where nobody sets another bound: ten
/// times what any model here has with PEFT's rank.
pub const SHARED_BYTES_MAX: u64 = 1 << 30;

/// Option of all methods: the codes of the trained adapter.
const QUANTIZE: &str = "quantize";
/// Option of QA-LoRA.
const GROUP_SIZE: &str = "group_size";
/// Option of VeRA.
const PROJECTION_PRNG_KEY: &str = "projection_prng_key";
/// Option of VeRA.
const D_INITIAL: &str = "d_initial";

/// [`QaLora::GROUP_SIZE`] as the option has it.
const GROUP_SIZE_DEFAULT: &str = "32";
const _: () = assert!(QaLora::GROUP_SIZE == 32, "the option's default is the method's");
const _: () = assert!(Vera::<f32>::D_INITIAL == 0.1, "the option's default is the method's");

/// What a method makes of a site.
type Built<F> = Result<Option<Box<dyn Adapter<F>>>, BuildError>;

/// The adapter of a linear; other sites are left alone.
fn on_linear<F: Float, A: Adapter<F> + 'static>(
    method: &'static str,
    site: &SiteInfo,
    config: &Config,
    new: impl Fn(usize, usize, &Config) -> Result<A, BadValue>,
) -> Built<F> {
    if site.place != Place::Linear {
        return Ok(None);
    }
    let adapter = new(site.in_features, site.out_features, config)?;
    coded(method, Box::new(adapter), config).map(Some)
}

/// The adapter, coded if the configuration says so.
fn coded<F: Float>(
    method: &'static str,
    adapter: Box<dyn Adapter<F>>,
    config: &Config,
) -> Result<Box<dyn Adapter<F>>, BuildError> {
    let Some(name) = config.options.get(QUANTIZE) else { return Ok(adapter) };
    match LineCodes::named(name) {
        Some(codes) => Ok(Box::new(FakeQuant::new(adapter, codes))),
        None => {
            let (option, value, expected) = (QUANTIZE, name.clone(), "`int8` or `int4`");
            Err(BuildError::BadOption { method, option, value, expected })
        }
    }
}

/// The value of an option, if it is given.
fn option<T: FromStr>(
    method: &'static str,
    option: &'static str,
    config: &Config,
    expected: &'static str,
) -> Result<Option<T>, BuildError> {
    let Some(value) = config.options.get(option) else { return Ok(None) };
    let bad = |_| BuildError::BadOption { method, option, value: value.to_string(), expected };
    value.parse().map(Some).map_err(bad)
}
