//! The order in which layers are used, learned while they are.
//!
//! What is remembered is, for every two layers in a row, the one that came after them. A pass in
//! another order (the other half of an autoencoder, another number of tiles) is learned as it
//! happens and costs a wrong guess where it departs. The end of a pass leads to the start of the
//! next, since that is what came after it.

use std::collections::{HashMap, HashSet};

/// What came after what.
#[derive(Debug, Default)]
pub(super) struct Order {
    after: HashMap<(Option<usize>, usize), usize>,
    /// The last two layers that were used, the last one second.
    last: (Option<usize>, Option<usize>),
}

impl Order {
    /// A first guess: these layers one after the other, over and over.
    pub(super) fn guess(layers: &[usize]) -> Self {
        let mut order = Self::default();
        for &layer in layers.iter().cycle().take(layers.len() + 2) {
            order.learn(layer);
        }
        // The first pass starts from nothing.
        if let [first, second, ..] = *layers {
            order.after.insert((None, first), second);
        }
        order.pause();
        order
    }

    /// The layer is used now.
    pub(super) fn learn(&mut self, layer: usize) {
        if let (before, Some(last)) = self.last {
            self.after.insert((before, last), layer);
        }
        self.last = (self.last.1, Some(layer));
    }

    /// Use ends for now: what comes next is not the business of what was last.
    pub(super) fn pause(&mut self) {
        self.last = (None, None);
    }

    /// The layers that come next, each once, as far as they are known and `more` wants them.
    pub(super) fn ahead(&self, mut more: impl FnMut(usize) -> bool) -> Vec<usize> {
        let (mut before, mut last) = self.last;
        let mut coming = Vec::new();
        let mut seen = HashSet::new();
        while let Some(layer) = last
            && let Some(&next) = self.after.get(&(before, layer))
            && seen.insert(next)
            && more(next)
        {
            coming.push(next);
            (before, last) = (last, Some(next));
        }
        coming
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coming(order: &Order, count: usize) -> Vec<usize> {
        let mut left = count;
        order.ahead(|_| {
            left = left.wrapping_sub(1);
            left < count
        })
    }

    fn run(order: &mut Order, layers: &[usize]) {
        layers.iter().for_each(|&layer| order.learn(layer));
    }

    #[test]
    fn the_guess_goes_round() {
        let mut order = Order::guess(&[4, 7, 5]);
        assert!(coming(&order, 9).is_empty(), "nothing comes before the first layer is used");
        order.learn(4);
        assert_eq!(coming(&order, 2), [7, 5]);
        run(&mut order, &[7, 5]);
        assert_eq!(coming(&order, 9), [4, 7, 5], "over the end of the pass, each layer once");
        assert!(coming(&Order::guess(&[]), 9).is_empty());
        let mut one = Order::guess(&[3]);
        one.learn(3);
        run(&mut one, &[3]);
        assert_eq!(coming(&one, 9), [3]);
    }

    #[test]
    fn another_order_is_learned_at_once() {
        let mut order = Order::guess(&[0, 1, 2, 3]);
        run(&mut order, &[0, 2, 1, 3, 0]);
        assert_eq!(coming(&order, 2), [1, 2], "the guess knew 3, 0");
        run(&mut order, &[2, 1, 3, 0]);
        assert_eq!(coming(&order, 4), [2, 1, 3, 0]);
    }

    #[test]
    fn a_layer_that_is_used_twice_in_a_pass() {
        let mut order = Order::default();
        let pass = [0, 9, 1, 9, 2];
        run(&mut order, &[pass, pass].concat());
        run(&mut order, &[0, 9]);
        assert_eq!(coming(&order, 1), [1]);
        run(&mut order, &[1, 9]);
        assert_eq!(coming(&order, 1), [2]);
    }

    #[test]
    fn two_halves_take_turns() {
        let mut order = Order::guess(&[0, 1, 2, 10, 11, 12]);
        let (encoder, decoder) = ([0, 1, 2], [10, 11, 12]);
        run(&mut order, &[encoder, decoder, decoder, decoder].concat());
        run(&mut order, &[10, 11]);
        assert_eq!(coming(&order, 2), [12, 10]);
        order.pause();
        run(&mut order, &[0, 1]);
        assert_eq!(coming(&order, 1), [2]);
    }
}
