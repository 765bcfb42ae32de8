//! What an evaluation measured.

use lowtide::Evaluation;
use lowtide::train::{Phase, SoftmaxError};

use super::Facts;
use super::number::{count, percent, seconds};

/// The result of `lowtide eval`.
pub(crate) fn table(result: &Evaluation) -> String {
    let labelled = count(result.labelled_tokens);
    Facts::default()
        .add("loss", format!("{:.4}, the mean over labelled tokens", result.loss))
        .add("perplexity", format!("{:.4}", result.perplexity))
        .add("accuracy", format!("{} of labelled tokens were the likeliest", accuracy(result)))
        .add("tokens", format!("{}, {labelled} of them labelled", count(result.tokens)))
        .add("time", seconds(result.seconds))
        .under("Evaluation")
}

/// One line about the held-out loss after `step` updates.
pub(crate) fn line(step: u64, result: &Evaluation) -> String {
    let when = match step {
        0 => "before training".to_owned(),
        step => format!("after {}", super::number::counted(step, "update")),
    };
    let (loss, perplexity) = (result.loss, result.perplexity);
    let accuracy = accuracy(result);
    format!("held-out loss {loss:.4} {when} (perplexity {perplexity:.2}, accuracy {accuracy})")
}

/// What stands on the live line while an evaluation is under way.
pub(crate) fn progress(phase: Phase, done: usize, total: usize) -> String {
    match phase {
        Phase::Evaluation => format!("loss: {done}/{total} sequences"),
        Phase::Samples => format!("samples for the report: {done}/{total} answers"),
        Phase::Probes => format!("gradients of probes: {done}/{total} batches"),
        Phase::Neighbours => format!("neighbours: {done}/{total} target words"),
    }
}

/// How far an approximate softmax is from the exact one.
pub(crate) fn softmax(error: &SoftmaxError) -> String {
    let SoftmaxError { exact_loss, loss, gradient_cosine, gradient_error, .. } = *error;
    let words = format!("{} of {}", count(error.words as u64), count(error.vocabulary as u64));
    format!(
        "approximate softmax over {words} words: loss {loss:.4} where the exact one is \
         {exact_loss:.4}; of the topmost gradient, cosine {gradient_cosine:.6} and error {} \
         (first micro-batch)",
        percent(gradient_error, 1.0)
    )
}

fn accuracy(result: &Evaluation) -> String {
    percent(result.accuracy, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESULT: Evaluation = Evaluation {
        loss: 2.413_45,
        perplexity: 11.172_3,
        accuracy: 0.4812,
        tokens: 12_345,
        labelled_tokens: 6789,
        seconds: 12.34,
    };

    #[test]
    fn a_table_and_a_line() {
        let expected = "\
Evaluation
  loss          2.4135, the mean over labelled tokens
  perplexity    11.1723
  accuracy      48.1 % of labelled tokens were the likeliest
  tokens        12,345, 6,789 of them labelled
  time          12.3 s
";
        assert_eq!(table(&RESULT), expected);
        let tail = "(perplexity 11.17, accuracy 48.1 %)";
        assert_eq!(line(0, &RESULT), format!("held-out loss 2.4135 before training {tail}"));
        assert_eq!(progress(Phase::Evaluation, 12, 60), "loss: 12/60 sequences");
        let words = "samples for the report: 1/6 answers";
        assert_eq!(progress(Phase::Samples, 1, 6), words);
        assert_eq!(progress(Phase::Neighbours, 64, 300), "neighbours: 64/300 target words");
        assert_eq!(line(1, &RESULT), format!("held-out loss 2.4135 after 1 update {tail}"));
    }

    #[test]
    fn an_approximate_softmax_is_told_beside_the_exact_one() {
        let error = SoftmaxError {
            words: 12_345,
            vocabulary: 49_152,
            exact_loss: 2.5,
            loss: 2.4375,
            gradient_cosine: 0.99876,
            gradient_error: 0.0512,
        };
        let expected = "approximate softmax over 12,345 of 49,152 words: loss 2.4375 where the \
                        exact one is 2.5000; of the topmost gradient, cosine 0.998760 and error \
                        5.1 % (first micro-batch)";
        assert_eq!(softmax(&error), expected);
    }
}
