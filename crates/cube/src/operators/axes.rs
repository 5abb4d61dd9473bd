//! How tensors of one shape, or that are repeated to it, are gone through together.

/// Axes of several tensors, those that lie behind each other in all of them joined. The last is the innermost in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Axes {
    pub sizes: Vec<usize>,
    /// For each tensor, from one value along each axis to the next: 0 where it has one value for all.
    pub strides: Vec<Vec<usize>>,
}

impl Axes {
    /// Those of tensors, each its shape and strides, whose sides are that of `shape` or 1, gone through in this order of
    /// `shape`'s axes.
    pub(super) fn of(shape: &[usize], order: &[usize], tensors: &[(&[usize], &[usize])]) -> Self {
        let mut axes = Self { sizes: Vec::new(), strides: vec![Vec::new(); tensors.len()] };
        for axis in order.iter().copied().filter(|axis| shape[*axis] != 1) {
            let strides = tensors.iter().map(|(sides, strides)| match sides[axis] {
                1 => 0,
                _ => strides[axis],
            });
            axes.push(shape[axis], &strides.collect::<Vec<_>>());
        }
        if axes.sizes.is_empty() {
            axes.push(1, &vec![1; tensors.len()]);
        }
        axes
    }

    fn push(&mut self, size: usize, strides: &[usize]) {
        let joins = |(all, inner): (&Vec<usize>, &usize)| {
            all.last().is_some_and(|outer| *outer == inner * size)
        };
        match self.strides.iter().zip(strides).all(joins) {
            true => {
                self.sizes.last_mut().into_iter().for_each(|outer| *outer *= size);
                for (all, inner) in self.strides.iter_mut().zip(strides) {
                    all.last_mut().into_iter().for_each(|outer| *outer = *inner);
                }
            }
            false => {
                self.sizes.push(size);
                self.strides.iter_mut().zip(strides).for_each(|(all, inner)| all.push(*inner));
            }
        }
    }

    /// Whether each tensor can be read in vectors of so many values.
    pub(super) fn fits(&self, vector: usize) -> bool {
        let inner = self.sizes.len() - 1;
        self.sizes[inner].is_multiple_of(vector)
            && self.strides.iter().all(|strides| {
                strides[inner] == 1 && strides[..inner].iter().all(|s| s.is_multiple_of(vector))
            })
    }

    /// The same axes counted in vectors of so many values, which fit.
    pub(super) fn in_vectors(mut self, vector: usize) -> Self {
        let inner = self.sizes.len() - 1;
        self.sizes[inner] /= vector;
        for strides in &mut self.strides {
            strides[..inner].iter_mut().for_each(|stride| *stride /= vector);
        }
        self
    }
}

/// The order of axes, from the outermost, in which a tensor's values lie one after the other; `None` where they do not.
pub(super) fn order(shape: &[usize], strides: &[usize]) -> Option<Vec<usize>> {
    let mut order: Vec<usize> = (0..shape.len()).collect();
    order.sort_by_key(|axis| std::cmp::Reverse((shape[*axis] != 1, strides[*axis])));
    // An axis of one value may be anywhere, and stays where it is among its like.
    let mut next = 1;
    for axis in order.iter().rev().filter(|axis| shape[**axis] != 1) {
        if strides[*axis] != next {
            return None;
        }
        next *= shape[*axis];
    }
    Some(order)
}

/// The strides of values that lie one after the other in this order of their axes.
pub(super) fn strides(shape: &[usize], order: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    let mut next = 1;
    for axis in order.iter().rev() {
        strides[*axis] = next;
        next *= shape[*axis];
    }
    strides
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_joined_where_all_tensors_allow_it() {
        let of = |shape: &[usize], tensors: &[(&[usize], &[usize])]| {
            let order: Vec<usize> = (0..shape.len()).collect();
            let Axes { sizes, strides } = Axes::of(shape, &order, tensors);
            (sizes, strides)
        };
        let whole: (&[usize], &[usize]) = (&[2, 3, 4], &[12, 4, 1]);
        assert_eq!(of(&[2, 3, 4], &[whole, whole]), (vec![24], vec![vec![1], vec![1]]));
        // A vector for all rows, one for each picture, and a part of wider rows.
        let vector: (&[usize], &[usize]) = (&[1, 1, 4], &[4, 4, 1]);
        assert_eq!(of(&[2, 3, 4], &[whole, vector]), (vec![6, 4], vec![vec![4, 1], vec![0, 1]]));
        let each: (&[usize], &[usize]) = (&[2, 1, 4], &[4, 4, 1]);
        let (sizes, strides) = of(&[2, 3, 4], &[whole, each]);
        assert_eq!((sizes, strides), (vec![2, 3, 4], vec![vec![12, 4, 1], vec![4, 0, 1]]));
        let part: (&[usize], &[usize]) = (&[2, 3, 4], &[24, 8, 1]);
        assert_eq!(of(&[2, 3, 4], &[part]), (vec![6, 4], vec![vec![8, 1]]));
        assert_eq!(of(&[1, 1], &[(&[1, 1], &[9, 7])]), (vec![1], vec![vec![1]]));
    }

    #[test]
    fn vectors_divide_all_that_is_skipped() {
        let axes = Axes { sizes: vec![6, 8], strides: vec![vec![8, 1], vec![12, 1]] };
        assert!(axes.fits(4) && axes.fits(2) && !axes.fits(8));
        let axes = axes.in_vectors(4);
        assert_eq!(axes, Axes { sizes: vec![6, 2], strides: vec![vec![2, 1], vec![3, 1]] });
        assert!(!Axes { sizes: vec![8], strides: vec![vec![0]] }.fits(2));
    }

    #[test]
    fn an_order_is_that_of_memory() {
        assert_eq!(order(&[2, 3, 4], &[12, 4, 1]), Some(vec![0, 1, 2]));
        // Channels last.
        assert_eq!(order(&[2, 3, 4, 5], &[60, 1, 15, 3]), Some(vec![0, 2, 3, 1]));
        assert_eq!(order(&[2, 3], &[8, 1]), None);
        assert_eq!(order(&[2, 3], &[0, 1]), None);
        assert_eq!(strides(&[2, 3, 4, 5], &[0, 2, 3, 1]), [60, 1, 15, 3]);
        let with_ones = order(&[1, 3, 1, 5], &[7, 1, 9, 3]).unwrap();
        let along: Vec<_> = with_ones.into_iter().filter(|axis| [1, 3].contains(axis)).collect();
        assert_eq!(along, [3, 1]);
    }
}
