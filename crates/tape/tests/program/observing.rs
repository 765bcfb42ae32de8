//! Whoever observes is told of each stage, in order, and nothing depends on it.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use lowtide_tape::{Accumulate, Observer, Policy, Stage};

use crate::model::{Data, Model, params};
use crate::{EVERY_SITE, How, with_executor};

/// What was told, shared with the test; `None` ends the stage before it.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<Option<Stage>>>>);

impl Observer for Told {
    fn begin(&mut self, stage: Stage) {
        self.0.lock().unwrap().push(Some(stage));
    }

    fn end(&mut self, stage: Stage) {
        let mut told = self.0.lock().unwrap();
        assert_eq!(told.last(), Some(&Some(stage)), "stages follow each other");
        told.push(None);
    }
}

/// The stages of a step and of a loss after it, and the step's gradients.
fn told(policy: Policy, observed: bool) -> (Vec<Stage>, Vec<f32>) {
    let (model, data) = (Model::new(3), Data::new(1, &[3, 2]));
    let program = model.program::<f32>(EVERY_SITE);
    let (mut at, ranges) = (params(&program), program.param_ranges());
    let mut grads = vec![0.0; at.len()];
    let observer = Told::default();
    with_executor(&program, How::tight(policy, &data), true, |executor| {
        if observed {
            executor.set_observer(Box::new(observer.clone()));
        }
        let mut sink = Accumulate { grads: &mut grads, ranges: &ranges };
        executor.step(&mut at, &data.batch(), 1.0, &mut sink).unwrap();
        executor.loss(&at, &data.batch());
        assert_eq!(executor.observe(Stage::Update(1), || 7), 7);
    });
    let told = observer.0.lock().unwrap().iter().copied().flatten().collect();
    (told, grads)
}

#[test]
fn stages_are_told_in_the_order_in_which_they_run() {
    use Stage::{Again, Backward, Forward, Head, Update};
    let up = [Forward(0), Forward(1), Forward(2), Head];
    let down = |segment| [Backward(segment), Update(segment)];
    let end = [&up[..], &[Update(1)]].concat();
    let (block, grads) = told(Policy::Block, true);
    assert_eq!(block, [&up[..], &down(2), &down(1), &down(0), &end].concat());
    let pairs = Policy::Every(NonZeroUsize::new(2).unwrap());
    let (every, again) = told(pairs, true);
    assert_eq!(every, [&up[..], &down(2), &[Again(0)], &down(1), &down(0), &end].concat());
    let (none, unseen) = told(Policy::Block, false);
    assert!(none.is_empty() && unseen == grads && again == grads);
}
