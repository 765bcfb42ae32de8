//! What is told of a run that does not go as runs usually do.

use std::fmt::Write;

use lowtide::Event;

use super::number::counted;

/// Names told of a list.
const NAMES_MAX: usize = 3;

/// The event in a line; nothing for those that tell of nothing unusual.
pub(crate) fn watch(event: &Event) -> String {
    match event {
        Event::Spike { step, what, value, usual } => {
            let what = if *what == "loss" { "loss" } else { "gradient norm" };
            format!("warning: update {step}: the {what} is {value:.4}, usually {usual:.4}\n")
        }
        Event::RolledBack { step, to, loss, lr_factor } => format!(
            "warning: update {step} has loss {loss}: back to the state after {}, with {} times the \
             learning rate; the data in between is left out\n",
            counted(*to, "update"),
            factor(*lr_factor),
        ),
        Event::Untrained { updates, tensors } => {
            let names = tensors.iter().take(NAMES_MAX).map(String::as_str);
            let mut names = names.collect::<Vec<_>>().join(", ");
            if let Some(more) = tensors.len().checked_sub(NAMES_MAX).filter(|more| *more > 0) {
                let _ = write!(names, " and {more} more");
            }
            let (tensors, updates) =
                (counted(tensors.len() as u64, "trained tensor"), counted(*updates, "update"));
            format!("warning: {tensors} had no gradient in the first {updates}: {names}\n")
        }
        _ => String::new(),
    }
}

/// A factor of halvings: as it is where few digits say it, else in two digits.
fn factor(factor: f64) -> String {
    if factor >= 0.01 { factor.to_string() } else { format!("{factor:.1e}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unusual_is_told_in_a_line() {
        let spike = Event::Spike { step: 70, what: "grad_norm", value: 9.0, usual: 0.5 };
        assert_eq!(
            watch(&spike),
            "warning: update 70: the gradient norm is 9.0000, usually 0.5000\n"
        );
        let back = Event::RolledBack { step: 70, to: 60, loss: f64::NAN, lr_factor: 0.5 };
        assert_eq!(
            watch(&back),
            "warning: update 70 has loss NaN: back to the state after 60 updates, with 0.5 times \
             the learning rate; the data in between is left out\n"
        );
        let halved = |times| factor(0.5_f64.powi(times));
        assert_eq!([1, 3, 49].map(halved), ["0.5", "0.125", "1.8e-15"]);
        let tensors = ["a", "b", "c", "d", "e"].map(String::from).to_vec();
        assert_eq!(
            watch(&Event::Untrained { updates: 3, tensors }),
            "warning: 5 trained tensors had no gradient in the first 3 updates: a, b, c and 2 \
             more\n"
        );
    }
}
