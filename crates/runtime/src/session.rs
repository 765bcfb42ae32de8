//! A base opened for generating: model, adapter, text and memory in one place.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::path::PathBuf;

use lowtide_backend::Backend;
use lowtide_data::Message;
use lowtide_memory::{Budget, ByCategory, Category, Ledger, ReserveError, Slab};
use lowtide_model::{Model, Site, SiteValues};

use crate::generator::GeneratorPlan;
use crate::{
    BaseText, Generation, Generator, LoadedAdapter, OpenBase, Request, RuntimeError, registry,
};

/// Tokens of the context when nothing else is asked for and the base can have as many.
const CONTEXT: usize = 4096;

/// What a session is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionSettings {
    /// HF folder or `.gguf` file.
    pub model: PathBuf,
    /// Adapter folder; `None` for the bare base.
    pub adapter: Option<PathBuf>,
    /// File with the chat template; the base's own when `None`.
    pub chat_template: Option<PathBuf>,
    /// Tokens of prompt and answer together; 4096, or as many as the base can have, when `None`.
    pub context: Option<usize>,
    /// The most of the last tokens that a token sees, itself included; as the base has it when
    /// `None`.
    pub sliding_window: Option<usize>,
    /// Heap that may be held: KV cache, working set and adapter, without the tokenizer's tables.
    pub memory_budget: Option<u64>,
}

/// What is to be continued.
#[derive(Clone, Copy, Debug)]
pub enum Prompt<'a> {
    /// A text as it is.
    Text(&'a str),
    /// A conversation, through the base's chat template.
    Chat(&'a [Message]),
    /// Token ids.
    Ids(&'a [u32]),
}

/// A base, perhaps with an adapter, that answers prompts one after the other.
pub struct Session<'p, 'w> {
    generator: Generator<'p, 'w>,
    text: &'p BaseText,
    params: Slab,
    ledger: Ledger,
}

/// Opens what `settings` name, works with it and gives everything back.
///
/// # Errors
/// When a file is unsound, the adapter is of another base, the context is longer than the base can
/// have, the budget is too small, or `work` fails.
pub fn with_session<R, E: From<RuntimeError>>(
    settings: &SessionSettings,
    be: &dyn Backend<f32>,
    work: impl FnOnce(&mut Session<'_, '_>) -> Result<R, E>,
) -> Result<R, E> {
    let base = OpenBase::open(&settings.model)?.with_window(settings.sliding_window)?;
    let base = base.with_budget(settings.memory_budget);
    let adapter = settings.adapter.as_deref().map(LoadedAdapter::open);
    let adapter = adapter.transpose()?;
    let model = match &adapter {
        Some(adapter) => base.build_adapted(&registry(), adapter)?,
        None => base.build(None)?,
    };
    let longest = base.file().hyper().max_position_embeddings;
    let context = settings.context.unwrap_or(CONTEXT.min(longest));
    if context == 0 || context > longest {
        return Err(RuntimeError::Context { context, longest }.into());
    }
    let mut text = BaseText::open(&base)?;
    if let Some(path) = &settings.chat_template {
        text = text.with_template(&base, path)?;
    }
    let budget = settings.memory_budget;
    let mut session = Session::reserve(&model, &text, be, context, budget)?;
    if let Some(adapter) = &adapter {
        adapter.fill(base.file().hyper(), &model.sites, session.values_mut())?;
    }
    work(&mut session)
}

impl<'p, 'w> Session<'p, 'w> {
    /// Reserves memory for a model that is built already, with its fastest plan within the budget.
    /// Adapter parameters are zero.
    ///
    /// # Errors
    /// [`RuntimeError::OverBudget`] when no plan fits, [`RuntimeError::Reserve`] when the system
    /// has not what was planned, [`RuntimeError::WholeSequence`] when a method cannot generate.
    pub fn reserve(
        model: &'p Model<'w, f32>,
        text: &'p BaseText,
        be: &'p dyn Backend<f32>,
        context: usize,
        budget: Option<u64>,
    ) -> Result<Self, RuntimeError> {
        let blind = |site: &&Site| site.facts.whole_sequence && site.state == 0;
        if let Some(site) = model.sites.iter().find(blind) {
            let (method, module) = (site.kind, site.info.name.clone());
            return Err(RuntimeError::WholeSequence { method, module });
        }
        let params = (model.program.params() * size_of::<f32>()) as u64;
        let own = ByCategory::of(Category::Adapter, params)
            .with(Category::Workspace, model.resident_bytes);
        let (mut smallest, mut chosen) = (u64::MAX, None);
        for plan in GeneratorPlan::all(&model.program, be, context) {
            let held = (own + plan.bytes()).held();
            smallest = smallest.min(held);
            if budget.is_none_or(|budget| held <= budget) {
                chosen = Some(plan);
                break;
            }
        }
        let Some(plan) = chosen else {
            let budget = budget.unwrap_or(u64::MAX);
            return Err(RuntimeError::OverBudget { budget, smallest, context });
        };
        let mut ledger = Ledger::new(budget.map_or(Budget::UNLIMITED, Budget::of));
        let resident = ByCategory::of(Category::Workspace, model.resident_bytes);
        // Held by the model as long as it lives, which is longer than the session.
        let _resident = ledger.charge(resident).map_err(ReserveError::from)?;
        let params = Slab::reserve(&mut ledger, ByCategory::of(Category::Adapter, params))?;
        let generator = Generator::reserve(&model.program, be, plan, &mut ledger)?;
        tracing::debug!(bytes = ledger.live().held(), context, "reserved");
        Ok(Self { generator, text, params, ledger })
    }

    /// The adapter's tensors, to be filled. What was read before is forgotten.
    pub fn values_mut(&mut self) -> SiteValues<'_> {
        self.generator.clear();
        SiteValues { params: self.params.get_mut(), fixed: self.generator.fixed_mut() }
    }

    /// How the base reads and writes text.
    #[must_use]
    pub fn text(&self) -> &BaseText {
        self.text
    }

    /// Tokens the context holds.
    #[must_use]
    pub fn context(&self) -> usize {
        self.generator.context()
    }

    /// What is held.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Forgets what was read before.
    pub fn clear(&mut self) {
        self.generator.clear();
    }

    /// Continues a prompt; see [`Generator::generate`].
    ///
    /// # Errors
    /// As [`Generator::generate`]; when a conversation is given and the base has no chat template,
    /// or it refuses the conversation.
    pub fn complete(
        &mut self,
        prompt: Prompt<'_>,
        request: &Request,
        on_piece: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generation, RuntimeError> {
        let ids = match prompt {
            Prompt::Text(text) => Cow::Owned(self.text.plain(text)?),
            Prompt::Chat(messages) => Cow::Owned(self.text.chat(messages)?),
            Prompt::Ids(ids) => Cow::Borrowed(ids),
        };
        self.generator.generate(self.params.get(), self.text, &ids, request, on_piece)
    }
}
