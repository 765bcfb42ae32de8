//! LARS against LoRA at the shapes of Llama-3.2-1B, with random numbers for weights: what each
//! plans to hold, and how long an update takes.

use std::path::Path;

use lowtide_data::{Dataset, DatasetBuilder, DatasetOptions};
use lowtide_model::{Config, Model};
use lowtide_optim::{AdamW, Optimizer};
use lowtide_tape::{Limits, Policy};
use lowtide_train::{Gradient, Needs};

use super::base::{llama3, qwen25};
use super::step::{Running, ids, timed};
use super::{Base, cost};
use crate::{BenchError, Contender, Row, Stand};

/// Lengths of the one sequence, unless another is asked for.
const TOKENS: [usize; 2] = [1024, 2048];
/// The methods that take turns; ratios are to the first.
const METHODS: [&str; 2] = ["lora", "lars"];

/// Times an update (rank 8 on every linear, AdamW, one sequence the second half of which carries
/// loss) with LoRA and with LARS in turns, where everything is stored and where blocks are
/// recomputed, for each contender.
///
/// # Errors
/// When memory is refused.
pub fn lars(stand: &Stand<'_>, tokens: Option<usize>) -> Result<Vec<Row>, BenchError> {
    let base = Base::shape("llama-3.2-1b-shape", &llama1());
    let one = tokens.map(|tokens| [tokens]);
    let lengths = one.as_ref().map_or(&TOKENS[..], |one| &one[..]);
    side_by_side(stand, &base, lengths)
}

fn side_by_side(stand: &Stand<'_>, base: &Base, lengths: &[usize]) -> Result<Vec<Row>, BenchError> {
    let mut models = Vec::new();
    for method in METHODS {
        models.push(base.adapted_by(method, 8)?);
    }
    let mut rows = Vec::new();
    for &tokens in lengths {
        base.check(tokens)?;
        let data = half_labelled(base, tokens)?;
        for contender in stand.contenders {
            for policy in [Policy::Store, Policy::Block] {
                rows.push(turns(stand, contender, base, &models, &data, policy)?);
            }
        }
    }
    Ok(rows)
}

/// One update of each model at a time.
fn turns(
    stand: &Stand<'_>,
    contender: &Contender<'_>,
    base: &Base,
    models: &[Model<'_, f32>],
    data: &Dataset,
    policy: Policy,
) -> Result<Row, BenchError> {
    let optimizer = AdamW::default();
    let tokens = data.sequence(0)?.tokens;
    let labels = METHODS.map(|method| format!("{method}, {}", contender.label));
    let who = labels.each_ref().map(|label| Contender { label, ..*contender });
    let mut runs = Vec::new();
    for (contender, model) in who.iter().zip(models) {
        let optimizer: &dyn Optimizer = &optimizer;
        runs.push(Running::reserve(contender, model, optimizer, needs(tokens), policy)?);
    }
    let stand = Stand { contenders: &who, ..*stand };
    let name = format!("{} {tokens} {policy}", base.name());
    let work = cost::train(base, tokens, tokens / 2);
    let row = timed(&stand, ("lars", &name), work, tokens, &mut runs, &mut |run| run.update(data));
    runs.into_iter().for_each(Running::release);
    row
}

/// One sequence of ids without a pattern, the first half of which is a prompt.
fn half_labelled(base: &Base, tokens: usize) -> Result<Dataset, BenchError> {
    let ids = ids(base, tokens);
    let label = |(at, id): (usize, &u32)| if at < tokens / 2 { -100 } else { i64::from(*id) };
    let labels: Vec<i64> = ids.iter().enumerate().map(label).collect();
    let options = DatasetOptions { max_seq_len: tokens, ..DatasetOptions::default() };
    let record = serde_json::json!({ "input_ids": ids, "labels": labels }).to_string();
    let mut builder = DatasetBuilder::new(&options, None, None)?;
    builder.add_jsonl(Path::new("ids"), record.as_bytes())?;
    Ok(builder.finish()?)
}

/// The numbers of Llama-3.2-1B.
fn llama1() -> Config {
    let Config {
        hidden_size, num_hidden_layers, intermediate_size, attention_scale, head_dim, ..
    } = qwen25(2048, 16, 32, 64, 8192);
    let num_attention_heads = 32;
    Config {
        hidden_size,
        num_hidden_layers,
        num_attention_heads,
        intermediate_size,
        attention_scale,
        head_dim,
        ..llama3()
    }
}

/// One sequence, the second half of which carries loss.
fn needs(tokens: usize) -> Needs {
    Needs {
        limits: Limits { tokens, sequences: 1, labelled: tokens / 2 },
        longest: tokens,
        data_bytes: 0,
        apply_and_free: false,
        train: true,
        gradient: Gradient::Backprop,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lowtide_simd::Simd;
    use lowtide_tape::Checkpointing;
    use lowtide_train::RunPlan;

    use super::super::base::tests::tiny;
    use super::super::step::TILE;
    use super::*;
    use crate::{Pace, Wall};

    /// Bytes of a plan.
    fn planned(model: &Model<'_, f32>, tokens: usize, how: Checkpointing) -> u64 {
        RunPlan::new(model, &Simd::new(2), &AdamW::default(), needs(tokens), how).bytes().held()
    }

    #[test]
    fn lars_holds_at_least_15_percent_less_where_all_is_stored() {
        let base = Base::outline("llama-3.2-1b", &llama1());
        let [lora, lars] = ["lora", "lars"].map(|kind| base.adapted_by(kind, 8).unwrap());
        for tokens in [1024, 2048] {
            let share = |how: Checkpointing| {
                let [lora, lars] = [&lora, &lars].map(|model| planned(model, tokens, how) as f64);
                lars / lora
            };
            let (store, block) = (share(Policy::Store.into()), share(Policy::Block.into()));
            assert!(store < 0.85 && block < 1.01, "{tokens} tokens: {store:.3} and {block:.3}");
            // A pooled sequence cannot be cut into tiles of rows.
            let tiled = share(Checkpointing::from(Policy::Sqrt).tiled(TILE));
            assert!(tiled > 1.0, "{tokens} tokens in tiles: {tiled:.3}");
        }
    }

    #[test]
    fn both_take_turns_under_both_policies() {
        let pace = Pace { turn: Duration::ZERO, rounds: 1 };
        let contender =
            Contender { label: "simd", backend: &Simd::new(1), threads: 1, run: &|job| job() };
        let stand = Stand {
            contenders: &[contender],
            ceilings: &[],
            clock: &Wall::default(),
            pace,
            on_start: &|_| (),
            on_row: &|_| (),
        };
        let rows = side_by_side(&stand, &tiny(), &[64]).unwrap();
        let names: Vec<_> = rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names, ["tiny 64 store", "tiny 64 block"]);
        for row in rows {
            let who: Vec<_> = row.results.iter().map(|found| found.contender.as_str()).collect();
            assert_eq!(who, ["lora, simd", "lars, simd"]);
            assert!(row.results.iter().all(|found| found.planned_bytes.is_some()));
        }
    }
}
