//! A bounded excerpt of a list of any length: all of it while it is short, evenly spaced items of
//! it later.

/// Every `stride`-th item of those pushed, beginning with the first.
#[derive(Clone, Debug)]
pub(crate) struct Thinned<T> {
    items: Vec<T>,
    max: usize,
    stride: u64,
    seen: u64,
}

impl<T> Thinned<T> {
    /// Keeps at most `max` items; the room for them is taken at once.
    ///
    /// # Panics
    /// When `max` is below 2.
    pub(crate) fn new(max: usize) -> Self {
        assert!(max >= 2, "an excerpt of {max}");
        Self { items: Vec::with_capacity(max), max, stride: 1, seen: 0 }
    }

    /// Takes an item, or leaves it out.
    pub(crate) fn push(&mut self, item: T) {
        if self.seen.is_multiple_of(self.stride) {
            if self.items.len() == self.max {
                let mut index = 0;
                self.items.retain(|_| {
                    index += 1;
                    index % 2 == 1
                });
                self.stride *= 2;
            }
            // Thinning doubles the stride; an item between the new strides is left out as well.
            if self.seen.is_multiple_of(self.stride) {
                self.items.push(item);
            }
        }
        self.seen += 1;
    }

    /// What is kept, in order.
    pub(crate) fn items(&self) -> &[T] {
        &self.items
    }

    /// What is kept, in order.
    pub(crate) fn into_items(self) -> Vec<T> {
        self.items
    }
}

#[cfg(test)]
mod tests {
    use super::Thinned;

    #[test]
    fn a_short_list_is_kept_whole_and_a_long_one_evenly() {
        let mut short = Thinned::new(4);
        (0..4).for_each(|n| short.push(n));
        assert_eq!(short.into_items(), [0, 1, 2, 3]);
        let mut long = Thinned::new(4);
        (0..100).for_each(|n| long.push(n));
        assert_eq!(long.stride, 32);
        assert_eq!(long.items.capacity(), 4);
        assert_eq!(long.into_items(), [0, 32, 64, 96]);
    }
}
