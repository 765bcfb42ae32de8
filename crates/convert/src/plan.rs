//! Which tensors are written, in which type, and what is done to them on the way.

use lowtide_formats::safe::PermutedRows;
use lowtide_formats::{Base, Tensor, gguf_architecture, gguf_tensor_name, rows};
use lowtide_quant::BlockFormat;
use lowtide_quant::formats::F32;

use crate::Kind;

/// One tensor of the output.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    /// Its name in the output.
    pub(crate) name: String,
    /// Its HF name.
    pub(crate) hf_name: String,
    pub(crate) source: Tensor<'a>,
    pub(crate) format: &'static dyn BlockFormat,
    pub(crate) order: Order,
    /// Added to every value.
    pub(crate) offset: f32,
    /// Whether the caller changes its values.
    pub(crate) changed: bool,
}

/// Where the rows of the output lie in the source.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    Same,
    /// The output is a GGUF file whose q and k are permuted, the source is not.
    Permute(PermutedRows),
    /// The reverse.
    Unpermute(PermutedRows),
}

impl Order {
    /// The row of the source that is row `row` of the output.
    pub(crate) fn source_row(self, row: usize) -> usize {
        match self {
            Self::Same => row,
            Self::Permute(PermutedRows { heads, head_dim }) => {
                rows::gguf_row_to_hf_row(row, heads, head_dim)
            }
            Self::Unpermute(PermutedRows { heads, head_dim }) => {
                rows::hf_row_to_gguf_row(row, heads, head_dim)
            }
        }
    }
}

impl Job<'_> {
    /// Values in a row; a vector is one row.
    pub(crate) fn cols(&self) -> usize {
        self.source.shape.last().copied().unwrap_or(1)
    }

    /// Rows of that many values, as [`Order`] counts them. A permuted bias is rows of one value.
    pub(crate) fn rows(&self) -> usize {
        self.source.len() / self.cols()
    }

    pub(crate) fn row_bytes(&self) -> usize {
        self.format.row_bytes(self.cols()).expect("a format that was chosen to fit")
    }

    pub(crate) fn bytes(&self) -> usize {
        self.row_bytes() * self.rows()
    }

    /// Whether it is a bias or a norm.
    pub(crate) fn is_vector(&self) -> bool {
        self.source.shape.len() < 2
    }

    /// Whether values that were read are written in the type that they had.
    pub(crate) fn keeps_type(&self) -> bool {
        let plain = self.source.apart.is_none() && self.offset == 0.0;
        plain && self.source.format.name() == self.format.name()
    }

    /// Whether the bytes are copied as they are, and only looked at.
    pub(crate) fn is_copy(&self) -> bool {
        // Rows that are moved within a vector are single values.
        let whole = matches!(self.order, Order::Same) || self.source.shape.len() == 2;
        !self.changed && whole && self.keeps_type()
    }

    /// How often a row is held as floats: as it is written and as that reads back; for a change
    /// also as it was, and as that would read back.
    pub(crate) fn copies(&self) -> usize {
        if self.changed { 4 } else { 2 }
    }
}

/// The kind of file that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Gguf,
    Hf,
}

/// The tensors of `base` as they are written. Without a `kind`, GGUF files keep every type.
///
/// `changes` says of a tensor, by its HF name, whether its values are changed.
pub(crate) fn jobs<'b>(
    base: &'b Base,
    target: Target,
    kind: Option<Kind>,
    changes: &dyn Fn(&str) -> bool,
) -> Vec<Job<'b>> {
    let hyper = base.hyper();
    let gguf_source = base.gguf().is_some();
    let permutes = gguf_architecture(&hyper.architecture) == Some("llama");
    let norm_offset = match (gguf_source, target) {
        (false, Target::Gguf) => hyper.norm_offset,
        (true, Target::Hf) if hyper.architecture == "gemma3_text" => -1.0,
        _ => 0.0,
    };
    let job = |hf_name: String| {
        let source = base.tensor(&hf_name).expect("a name that the base lists");
        let name = match target {
            Target::Hf => hf_name.clone(),
            Target::Gguf => gguf_tensor_name(&hyper.architecture, &hf_name)
                .expect("a tensor of a known family has a name in GGUF"),
        };
        let vector = source.shape.len() < 2;
        let row = source.shape.last().copied().unwrap_or(1);
        let tied = hyper.tie_word_embeddings;
        let layers = hyper.num_hidden_layers;
        let format: &'static dyn BlockFormat = match (target, kind) {
            (Target::Hf, kind) => kind.unwrap_or(Kind::F32).format(),
            (Target::Gguf, _) if vector => &F32,
            (Target::Gguf, Some(kind)) => kind.format_of(&hf_name, row, layers, tied),
            // What GGUF has no number for is unpacked.
            (Target::Gguf, None) => match source.apart {
                None if source.format.ggml_type().is_some() => source.format,
                _ => Kind::F16.format(),
            },
        };
        let offset = if hf_name.ends_with("norm.weight") { norm_offset } else { 0.0 };
        let order = if permutes { order(base, &hf_name, gguf_source, target) } else { Order::Same };
        let changed = changes(&hf_name);
        Job { name, hf_name, source, format, order, offset, changed }
    };
    base.tensor_names().map(job).collect()
}

fn order(base: &Base, name: &str, gguf_source: bool, target: Target) -> Order {
    let hyper = base.hyper();
    let module = name.rsplit_once('.').map_or(name, |(module, _)| module);
    let heads = match module.rsplit('.').next() {
        Some("q_proj") => hyper.num_attention_heads,
        Some("k_proj") => hyper.num_key_value_heads,
        _ => return Order::Same,
    };
    let rows = PermutedRows { heads, head_dim: hyper.head_dim };
    match (gguf_source, target) {
        (false, Target::Gguf) => Order::Permute(rows),
        (true, Target::Hf) => Order::Unpermute(rows),
        _ => Order::Same,
    }
}
